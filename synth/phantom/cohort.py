"""A cohort of phantoms as files, made once: a folder per site, and `cohort.json` with the truth.

A patient depends on the seed, the site's name and place in the list, and the patient's number
alone: a site with more patients begins with the same ones.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedward.common.config.image import PhantomConfig
from fedward.common.errors import ConfigError, StorageError
from fedward.common.randomness import numpy_generator
from fedward.synth.phantom.case import VERSION, CaseSpec, Phantom, generator_hash, make_case
from fedward.synth.phantom.presets import Export, Labels, export_of
from fedward.synth.phantom.scanner import Scanner, scanner_of
from fedward.synth.phantom.table import TABLE, table_row, write_table

DESCRIPTION = "cohort.json"
_WRITERS = ("cohort", "dicom_masks", "dicom_writer", "presets", "table", "writer")
Progress = Callable[[int, int], None]
"""Called with the number of patients that are done and the number there are."""


def cohort_key(config: PhantomConfig) -> str:
    """Return 16 hex digits that are equal for cohorts with the same files."""
    contents = {
        "generator": generator_hash(),
        "writers": [Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in _WRITERS],
        "config": config.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def make_cohort(config: PhantomConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Return the folder of the cohort, which is made unless it is there already.

    Files are written beside `out` and moved there when all are complete.

    Args:
        config: kinds, sites and numbers of patients.
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
        raise StorageError(f"{out}: the phantoms cannot be written ({error.strerror})") from error
    return out


def read_cohort(folder: Path) -> dict[str, Any]:
    """Return what `cohort.json` says: key, generator, config, counts, sites and patients' truth.

    Raises:
        StorageError: it is not there or cannot be read.
    """
    path = folder / DESCRIPTION
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise StorageError(f"{path}: damaged; delete the folder and make the cohort anew") from None
    return found


def phantoms_of(
    config: PhantomConfig, site: str, *, most: int | None = None
) -> Iterator[tuple[str, Phantom]]:
    """Yield name and phantom of each patient of a site, one by one; `most` of them if given."""
    spec = CaseSpec(
        kind=config.kind,
        scanner=scanner_of(list(config.patients).index(site)),
        size_mm=config.size,
        labels_from=config.labels_from,
        missing=config.missing,
    )
    num_patients = config.patients[site]
    for number in range(min(num_patients, num_patients if most is None else most)):
        rng = numpy_generator(config.seed, purpose=f"phantom of patient {number}", site=site)
        yield f"{site}-{number + 1:05d}", make_case(spec, rng)


def _is_there(config: PhantomConfig, out: Path) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / DESCRIPTION).is_file():
        raise ConfigError(f"{out}: there is something else; name a folder that is new or empty")
    if read_cohort(out).get("key") != cohort_key(config):
        raise ConfigError(
            f"{out}: holds phantoms of other settings or another version of the generator; "
            "delete the folder or name a new one"
        )
    for site, num_patients in config.patients.items():
        tables, folders = out / site / TABLE, sum(path.is_dir() for path in (out / site).glob("*"))
        if not tables.is_file() or folders != num_patients:
            raise ConfigError(f"{out}: files of {site} were removed; delete the folder and retry")
    return True


def _move(config: PhantomConfig, made: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()
        os.rename(made, out)  # noqa: PTH104 - Path.rename says no more
    except OSError:
        # Another process may have been faster; then its files are the same.
        if not _is_there(config, out):
            raise


def _patient_writer() -> Callable[..., None]:
    try:
        from fedward.synth.phantom.writer import write_patient
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"phantoms: {error.name} is not installed; CT comes with: pip install 'fedward[ct]'"
        ) from None
    return write_patient


def _write(config: PhantomConfig, folder: Path, progress: Progress) -> None:
    write_patient = _patient_writer()
    key = cohort_key(config)
    total = sum(config.patients.values())
    progress(0, total)
    truth: dict[str, Any] = {}
    sites: dict[str, Any] = {}
    for index, site in enumerate(config.patients):
        scanner = scanner_of(index)
        export = export_of(index) if config.files == "dicom" else None
        rows = []
        for patient, phantom in phantoms_of(config, site):
            labels = Labels(patient, cohort=key, software=f"fedward phantom {VERSION}")
            place = folder / site / patient
            write_patient(phantom, place, labels=labels, scanner=scanner, export=export)
            rows.append(table_row(patient, config.kind, phantom))
            truth[patient] = _truth(site, phantom)
            progress(len(truth), total)
        write_table(folder / site / TABLE, config.kind, rows)
        sites[site] = _site(truth, site, scanner, export)
    description = {
        "key": key,
        "generator": {"version": VERSION, "hash": generator_hash()},
        "config": config.model_dump(mode="json"),
        "counts": _counts(truth.values()),
        "sites": sites,
        "patients": truth,
    }
    text = json.dumps(description, indent=1) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def _truth(site: str, phantom: Phantom) -> dict[str, Any]:
    """Return what is true of a patient before any scanner, for the cohort's description."""
    return {
        "site": site,
        "label": phantom.label,
        "lesions": [asdict(lesion) for lesion in phantom.lesions],
    }


def _site(
    truth: dict[str, Any], site: str, scanner: Scanner, export: Export | None
) -> dict[str, Any]:
    patients = [one for one in truth.values() if one["site"] == site]
    return {
        **_counts(patients),
        "scanner": asdict(scanner),
        "export": asdict(export) if export else None,
    }


def _counts(patients: Any) -> dict[str, int]:
    found = list(patients)
    return {
        "patients": len(found),
        "positive": sum(one["label"] for one in found),
        "lesions": sum(len(one["lesions"]) for one in found),
    }
