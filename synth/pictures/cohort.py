"""A cohort of pictures as files, made once: an `.npz` per site, and `cohort.json` with the truth.

A patient depends on the seed, the site's name and the patient's number alone, and what is seen of
it on the site's place in the list: a site with more patients begins with the same ones.

Legend: N pictures; Y, X rows and columns.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.config.image import PicturesConfig
from fedward.common.errors import ConfigError, StorageError
from fedward.common.randomness import numpy_generator
from fedward.synth.phantom.cohort import DESCRIPTION, Progress, read_cohort
from fedward.synth.pictures import retina, skin
from fedward.synth.pictures.drawing import Patient

VERSION = 1
"""Grows whenever the same seed gives other patients."""
_SOURCES = ("cohort", "drawing", "retina", "skin")


def pictures_key(config: PicturesConfig) -> str:
    """Return 16 hex digits that are equal for cohorts with the same files."""
    contents = {"generator": generator_hash(), "config": config.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def generator_hash() -> str:
    """Return the first 16 hex digits of SHA-256 over the generator's source files."""
    total = hashlib.sha256()
    for name in _SOURCES:
        total.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return total.hexdigest()[:16]


def site_file(folder: Path, site: str) -> Path:
    """Return where a site's pictures lie in the folder of a cohort."""
    return folder / f"{site}.npz"


def classes_of(config: PicturesConfig) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers."""
    return skin.CLASSES if config.kind == "skin" else retina.CLASSES


def structures_of(config: PicturesConfig) -> tuple[str, ...]:
    """Return the names of what masks hold; value k is the k-th."""
    return skin.STRUCTURES if config.kind == "skin" else retina.STRUCTURES


def sensor_of(config: PicturesConfig, site: str) -> skin.Camera | retina.Tomograph:
    """Return what a site takes its pictures with, by its place in the list."""
    index = list(config.patients).index(site)
    return skin.camera_of(index) if config.kind == "skin" else retina.tomograph_of(index)


def patients_of(
    config: PicturesConfig, site: str, *, most: int | None = None
) -> Iterator[tuple[str, Patient]]:
    """Yield name and pictures of each patient of a site, one by one; `most` of them if given."""
    sensor = sensor_of(config, site)
    num_patients = config.patients[site]
    for number in range(min(num_patients, num_patients if most is None else most)):
        rng = numpy_generator(config.seed, purpose=f"pictures of patient {number}", site=site)
        if isinstance(sensor, skin.Camera):
            patient = skin.skin_patient(config.size, sensor, rng)
        else:
            patient = retina.retina_patient(config.size, sensor, rng)
        yield f"{site}-{number + 1:05d}", patient


def make_pictures(config: PicturesConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Return the folder of the cohort, which is made unless it is there already.

    Files are written beside `out` and moved there when all are complete.

    Args:
        config: kind, sites and numbers of patients.
        out: folder of the cohort: absent, empty, or holding this very cohort.
        progress: told how many patients are done.

    Raises:
        ConfigError: `out` holds something else.
        StorageError: a file cannot be written.
    """
    if _is_there(config, out):
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            made = Path(folder) / "cohort"
            made.mkdir()
            _write(config, made, progress or (lambda done, total: None))
            _move(config, made, out)
    except OSError as error:
        raise StorageError(f"{out}: the pictures cannot be written ({error.strerror})") from error
    return out


def _is_there(config: PicturesConfig, out: Path) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / DESCRIPTION).is_file():
        raise ConfigError(f"{out}: there is something else; name a folder that is new or empty")
    if read_cohort(out).get("key") != pictures_key(config):
        raise ConfigError(
            f"{out}: holds phantoms of other settings or another version of the generator; "
            "delete the folder or name a new one"
        )
    for site in config.patients:
        if not site_file(out, site).is_file():
            raise ConfigError(f"{out}: the file of {site} was removed; delete the folder and retry")
    return True


def _move(config: PicturesConfig, made: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()
        os.rename(made, out)  # noqa: PTH104 - Path.rename says no more
    except OSError:
        # Another process may have been faster; then its files are the same.
        if not _is_there(config, out):
            raise


def _write(config: PicturesConfig, folder: Path, progress: Progress) -> None:
    total = sum(config.patients.values())
    progress(0, total)
    truth: dict[str, Any] = {}
    sites: dict[str, Any] = {}
    for site in config.patients:
        found: dict[str, Patient] = {}
        for name, patient in patients_of(config, site):
            found[name] = patient
            truth[name] = {"site": site, "labels": patient.labels, **patient.truth}
            progress(len(truth), total)
        _write_site(config, site_file(folder, site), found)
        sites[site] = {**_counts(config, found), "sensor": asdict(sensor_of(config, site))}
    description = {
        "key": pictures_key(config),
        "generator": {"version": VERSION, "hash": generator_hash()},
        "config": config.model_dump(mode="json"),
        "sites": sites,
        "patients": truth,
    }
    text = json.dumps(description, indent=1) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def _write_site(config: PicturesConfig, path: Path, patients: dict[str, Patient]) -> None:
    """Write the arrays as the shipped schemas `skin-pictures` and `retina-scans` name them."""
    found = list(patients.values())
    lengths = [len(one.labels) for one in found]
    label_N = np.concatenate([one.labels for one in found]).astype(np.int16)
    arrays: dict[str, Any] = {
        "images": np.concatenate([one.pictures_NYX for one in found]),
        "masks": np.concatenate([one.masks_NYX for one in found]),
        "patient": np.repeat(np.array(list(patients)), lengths),
    }
    if config.kind == "skin":
        arrays["diagnosis"] = label_N
    else:
        arrays |= {"fluid": label_N, "scan": np.concatenate([np.arange(n) for n in lengths])}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _counts(config: PicturesConfig, patients: dict[str, Patient]) -> dict[str, Any]:
    classes = classes_of(config)
    seen = Counter(classes[label] for one in patients.values() for label in one.labels)
    return {
        "patients": len(patients),
        "pictures": seen.total(),
        "classes": {name: seen[name] for name in classes},
    }
