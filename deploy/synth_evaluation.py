"""The tables of an evaluation, from files: who was learned, who was held out, and what was made."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedward.client.data.patient_frame import View, file_hash, read_cohort, read_like
from fedward.common.errors import ConfigError
from fedward.synth.evaluation.evaluate import Evaluation, Progress, evaluate
from fedward.synth.evaluation.verdict import Claim
from fedward.synth.tables.artefact import load, read_header
from fedward.synth.tables.columns import Columns


@dataclass(frozen=True)
class Files:
    """What the command was given."""

    rows: Path
    model: Path | None
    data: Path | None
    train: Path | None
    holdout: Path | None
    external: Path | None


@dataclass(frozen=True, repr=False)
class _Patients:
    """It has no repr."""

    columns: Columns
    train: pd.DataFrame
    holdout: pd.DataFrame | None
    view: View


def evaluate_files(
    files: Files, view: View, *, seed: int, num_draws: int, progress: Progress
) -> Evaluation:
    """Return the evaluation of the rows in a file.

    Args:
        files: either model and data, or train and (for privacy) holdout.
        view: how tables are read; of model and data, only what differs from the fit.
        seed: of learners and attacks.
        num_draws: tables of which use is measured: the rows themselves, and others of the model.
        progress: called as parts are done.

    Raises:
        ConfigError: the files do not go together.
        SiteDataError: one cannot be used.
    """
    patients = _fitted(files) if files.model is not None else _given(files, view)
    columns = patients.columns
    rows = read_like(files.rows, columns)
    drawn = [rows, *_more(files.model, rows, columns, num_draws - 1)]
    external = None
    if files.external is not None:
        external = read_like(files.external, columns, patients.view.schema)
    told = _told(files.rows)
    return evaluate(
        columns,
        train=patients.train,
        synthetic=drawn,
        holdout=patients.holdout,
        external=external,
        seed=seed,
        name=files.rows.name,
        facts={"method": told["method"]} if "method" in told else {},
        claim=_claim(told),
        progress=progress,
    )


def _fitted(files: Files) -> _Patients:
    """Return the patients that a model has learned, and those that were held out of it."""
    assert files.model is not None
    if files.data is None or files.train is not None or files.holdout is not None:
        raise ConfigError("--model goes with --data; --train and --holdout stand without a model")
    facts = read_header(files.model)["facts"]
    if "table" not in facts:
        raise ConfigError(f"--model {files.model}: was not made by `fedward synth fit`")
    if facts["table"]["sha256"] != file_hash(files.data):
        raise ConfigError(
            f"--data {files.data}: is not the file that the model was fitted on, so that members "
            "cannot be told from others"
        )
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in facts["table"]["view"].items()
    }
    view = View(**found)
    cohort = read_cohort(files.data, view)
    held = facts["holdout"]
    train, holdout = cohort.split(held["share"], held["seed"])
    return _Patients(cohort.columns, train, holdout if len(holdout) else None, view)


def _given(files: Files, view: View) -> _Patients:
    if files.train is None:
        raise ConfigError("who was learned? give --model and --data, or --train and --holdout")
    cohort = read_cohort(files.train, view)
    holdout = None
    if files.holdout is not None:
        holdout = read_like(files.holdout, cohort.columns, view.schema)
    return _Patients(cohort.columns, cohort.frame, holdout, view)


def _more(
    model: Path | None, rows: pd.DataFrame, columns: Columns, num_draws: int
) -> list[pd.DataFrame]:
    """Return further tables of the model, with as many rows of each class as `rows`."""
    if model is None or num_draws < 1:
        return []
    fitted = load(model)
    counts: Any = "original"
    if columns.label is not None:
        sizes = rows[columns.label].value_counts()
        counts = {one: int(sizes.get(one, 0)) for one in columns.classes}
    return [
        fitted.sample(None if columns.label else len(rows), class_counts=counts, seed=draw)
        for draw in range(num_draws)
    ]


def _told(rows: Path) -> dict[str, Any]:
    """Return what `fedward synth sample` wrote beside the rows; nothing where it did not."""
    path = rows.with_name(f"{rows.name}.json")
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("sha256") != file_hash(rows):
        raise ConfigError(f"{path}: tells about other rows than those in {rows.name}")
    return found


def _claim(told: dict[str, Any]) -> Claim | None:
    privacy = told.get("privacy", {})
    return Claim(privacy["epsilon"], privacy["delta"]) if "epsilon" in privacy else None
