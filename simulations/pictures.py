"""Pictures of a simulated run's cases, a site each: of phantoms and public data only."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from fedward.client.store import SiteStore
from fedward.common.records import PARAMETERS
from fedward.common.tasks.ct_fingerprint import CtFingerprint
from fedward.server.checkpoint import Progress
from fedward.simulations.federation import Federation

FOLDER = "pictures"
REPEATS = "repeats"
MAX_SITES = 40
log = logging.getLogger("fedward")


def write_pictures(federation: Federation, progress: Progress, folder: Path) -> list[Path]:
    """Write a montage of each site's cases as `pictures/<site>.png`, and return the files.

    Each site is shown with the model that it was tested with: the received one, with what the
    site keeps to itself. Repetitions have pictures of the first one, in the folder of the run.
    Beyond `MAX_SITES` sites only the first ones have a picture.

    Args:
        federation: the run.
        progress: where it ended.
        folder: of the repetition.
    """
    place = _folder_of_run(folder) / FOLDER
    if folder != place.parent and place.exists():
        return []
    if federation.config.data.image is None or isinstance(federation.task, CtFingerprint):
        return []
    # MONAI belongs to an extra, and takes seconds.
    from fedward.client.montage import cases, montage
    from fedward.common.tasks.ct import CtTask

    task = federation.task
    assert isinstance(task, CtTask)
    if not task.images.shown or not task.images.structures:
        return []
    statistics = progress.vectors.get("statistics")
    written = []
    for site in federation.sites.site_ids[:MAX_SITES]:
        data = task.datasets(federation.sites.source(site), federation.split, statistics)
        found = cases(_model_at(site, federation, progress), task, data.test)
        if not found:
            log.info("no picture of %s: no test patient has a mask to compare with", site)
            continue
        place.mkdir(exist_ok=True)
        path = place / f"{site}.png"
        path.write_bytes(montage(found, title=site))
        written.append(path)
    return written


def _folder_of_run(folder: Path) -> Path:
    """Return the run's folder; that of a repetition lies in `repeats`."""
    return folder.parents[1] if folder.parent.name == REPEATS else folder


def _model_at(site: str, federation: Federation, progress: Progress) -> nn.Module:
    """Return the model of the last evaluation, as `LocalTrainer.evaluate` puts it together."""
    model = federation.new_model()
    shared = federation.shared_of(model)
    store = SiteStore(federation.store)
    after = progress.round_number + 1
    try:
        own = store.get(federation.run_key, site, "local", before_round=after)
        personal = store.get(federation.run_key, site, "personal", before_round=after)
    finally:
        store.close()
    _load(model, own or {})
    shared.load(model, progress.vectors[PARAMETERS])
    _load(model, personal or {})
    return model


def _load(model: nn.Module, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    state = model.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.as_tensor(array))
