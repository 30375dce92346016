"""What sites gave for synthetic patients, in a run's folder: `given/`, arrays and reports.

Tables are made of it elsewhere, by a program that may import pandas.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.errors import ConfigError, StorageError
from fedward.common.records import Vectors
from fedward.common.tensor_file import tensor_parts
from fedward.server.checkpoint import write_atomically
from fedward.server.synthesis import Given
from fedward.server.validation import Rejected

FOLDER, SUMS, PASSES, REPORTS = "given", "sums", "passes-so-far", "reports.json"


def keep_passes(folder: Path, summed: Vectors) -> None:
    """Keep the passes of a copula so far: a run that is interrupted goes on with the same sums.

    Raises:
        StorageError: it cannot be written.
    """
    _write(folder / FOLDER / f"{PASSES}.safetensors", summed)


def passes_so_far(folder: Path) -> Vectors | None:
    """Return the passes that were held already; None before the first."""
    path = folder / FOLDER / f"{PASSES}.safetensors"
    return _read(path) if path.exists() else None


def write_given(folder: Path, given: Given) -> None:
    """Write everything that sites gave.

    Raises:
        StorageError: it cannot be written.
    """
    for site, vectors in given.by_site.items():
        _write(folder / FOLDER / "rows" / f"{site}.safetensors", vectors)
    if given.summed:
        _write(folder / FOLDER / f"{SUMS}.safetensors", given.summed)
    told = {"sites": given.reports, "refused": [asdict(one) for one in given.refused]}
    _write_bytes(folder / FOLDER / REPORTS, json.dumps(told, indent=1).encode())


def read_given(folder: Path) -> Given | None:
    """Return what `write_given` wrote; None where nothing was given yet.

    Raises:
        StorageError: it cannot be read.
    """
    place = folder / FOLDER
    try:
        told = json.loads((place / REPORTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{place / REPORTS}: cannot be read; run it again") from error
    rows = {path.stem: _read(path) for path in sorted((place / "rows").glob("*.safetensors"))}
    sums = place / f"{SUMS}.safetensors"
    refused = [Rejected(**one) for one in told["refused"]]
    return Given(rows, _read(sums) if sums.exists() else {}, told["sites"], refused)


def summary_of(given: Given, config: SynthesisConfig) -> dict[str, Any]:
    """Return what `summary.json` says of it under `synthesis`."""
    claim = {"epsilon": config.epsilon, "delta": config.delta} if config.is_private else {}
    return {
        "method": config.method,
        "rows_per_site": config.rows_per_site,
        **claim,
        "sites": {site: _site(report) for site, report in sorted(given.reports.items())},
        "refused": [asdict(one) for one in given.refused],
    }


def check_is_synthesis(config: SynthesisConfig | None, folder: Path) -> SynthesisConfig:
    """Return what a run's folder was to make.

    Raises:
        ConfigError: it trained a model and made no rows.
    """
    if config is None:
        raise ConfigError(
            f"{folder}: this run has no section `synthesis`; give one that was submitted with it"
        )
    return config


def _site(report: Mapping[str, Any]) -> dict[str, Any]:
    known = ("synthesiser", "classes", "rows_left")
    return {key: report[key] for key in known if key in report}


def _write(path: Path, vectors: Vectors) -> None:
    _write_bytes(path, *tensor_parts(vectors))


def _write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, *parts)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _read(path: Path) -> Vectors:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be read; run it again") from error
