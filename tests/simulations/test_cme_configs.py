"""The configurations of the paper's figures, and classes from images without masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.common.config.loader import load_run_config, run_config_from_dict
from fedward.common.errors import ConfigError
from fedward.common.monitoring.layers import watched_layers
from fedward.common.task import Split
from fedward.common.tasks import build_task
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate
from fedward.simulations.sites import resolve_sites

SCHEMA = """\
version: 1
name: bars
patient_id: person
label: {column: bar, classes: [left, middle, right]}
exclude: [shuffled]
min_cohort: 1
image: {unit: grey}
"""
NUM_IMAGES = 180


def write_bars(folder: Path, *, shuffled: bool = False) -> None:
    """Write images of 16 pixels a side; their class says where a bright bar stands."""
    rng = np.random.default_rng(5)
    bar = np.arange(NUM_IMAGES) % 3
    image_NHW = rng.integers(0, 120, (NUM_IMAGES, 16, 16))
    for number, place in enumerate(bar):
        image_NHW[number, :, 5 * place : 5 * place + 3] += 100
    label = rng.permutation(bar) if shuffled else bar
    np.savez_compressed(
        folder / "bars.npz",
        images=image_NHW.astype(np.uint8),
        bar=label.astype(np.uint8),
        person=np.arange(NUM_IMAGES),
        classes=np.array(["left", "middle", "right"]),
    )
    (folder / "bars.yaml").write_text(SCHEMA, encoding="utf-8")


def bars() -> dict[str, Any]:
    return {
        "version": 1,
        "name": "bars",
        "seed": 1,
        "task": "image-classification",
        "data": {
            "root": ".",
            "schema": "bars.yaml",
            "partition": {"table": "bars.npz", "by": "iid", "num_sites": 3},
            "image": {"size": [16, 16], "rows": "slice", "window": [0, 255]},
        },
        "model": {"name": "small-cnn", "channels": [8, 8], "hidden": [16, 16]},
        "loss": {"classification": ["bce"], "weights": "fixed"},
        "strategy": {"name": "fedavg"},
        "rounds": 3,
        "local": {"epochs": 3, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.003},
        "monitor": {"cme": {"layers": "all", "maps": True}},
        "engine": {"name": "inprocess"},
    }


def trained(folder: Path) -> Run:
    return simulate(run_config_from_dict(bars()), base_dir=folder, out=folder / "runs")


def mean_auroc(run: Run) -> float:
    """Return the mean over the sites' test patients."""
    found = [site["metrics"]["auroc"]["value"] for site in run.summary["sites"].values()]
    return float(np.mean(found))


def test_three_classes_of_images_without_masks_are_learned_and_their_layers_drawn(
    tmp_path: Path,
) -> None:
    write_bars(tmp_path)
    run = trained(tmp_path)
    assert mean_auroc(run) > 0.9
    names = {path.name for path in (run.folder / "plots").iterdir()}
    assert {"cme-maps-body-2-weight.png", "cme-rho.png"} <= names
    maps = list((run.folder / "cme").glob("*/round-*.safetensors"))
    assert len(maps) == 3 * 3


@pytest.mark.slow
def test_labels_that_say_nothing_of_the_images_are_not_learned(tmp_path: Path) -> None:
    write_bars(tmp_path, shuffled=True)
    assert mean_auroc(trained(tmp_path)) < 0.75


def test_classifying_images_needs_a_label(tmp_path: Path) -> None:
    schema = "version: 1\nname: bars\nimage: {unit: grey, structures: [bar]}\n"
    (tmp_path / "bars.yaml").write_text(schema, encoding="utf-8")
    with pytest.raises(ConfigError, match="task: image-classification needs a label"):
        build_task(run_config_from_dict(bars()), tmp_path)


@pytest.mark.parametrize("name", ["cme-heart", "cme-brain"])
def test_the_figures_of_the_paper_have_its_three_sites_ten_epochs_and_its_head(name: str) -> None:
    path = find_config(name)
    config = load_run_config(path).config
    assert config.data.partition is not None
    assert config.data.partition.num_sites == 3
    assert config.local.epochs == 10
    assert config.rounds >= 10
    assert config.monitor.stop is None
    assert config.monitor.cme is not None
    assert config.monitor.cme.maps
    model = build_task(config, path.parent).build_model()
    (between,) = watched_layers(model, "penultimate")
    assert (between.num_rows, between.num_columns) == (128, 128)
    watched = watched_layers(model, config.monitor.cme.layers)
    assert between in watched
    assert len(watched) >= 3


@pytest.mark.usefixtures("data_dir")
def test_equal_pictures_of_brains_are_at_one_site_and_on_one_side_of_the_split() -> None:
    path = find_config("cme-brain")
    config = load_run_config(path).config
    sites = resolve_sites(config.data, seed=config.seed, base_dir=path.parent)
    task = build_task(config, path.parent)
    owners: dict[bytes, set[tuple[str, str]]] = {}
    total = 0
    for site in sites.site_ids:
        data = task.datasets(sites.source(site), Split(config.seed, config.data.test_fraction))
        for side, part in (("train", data.train), ("test", data.test)):
            rows = part.all_rows()
            assert set(rows["label"].tolist()) == {0, 1, 2, 3}
            total += len(rows["label"])
            for picture in rows["image"].numpy():
                owners.setdefault(picture.tobytes(), set()).add((site, side))
    assert total == 3264
    assert len(owners) >= 2870 - 5
    assert all(len(found) == 1 for found in owners.values())
