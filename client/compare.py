"""Two files of predictions for the same patients: which model orders them better?

Reads what `fedward predict` writes (`row`, the patient's id where there is one, a probability per
class) and the table with the outcomes, at the hospital. Messages name columns and counts, never a
patient.

Shapes: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.data.read import read_frame
from fedward.common.delong import DeLong, delong_test
from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.registry import did_you_mean
from fedward.common.subgroups import MIN_PATIENTS, SubgroupRow, bands, subgroup_table

ROW = "row"
PROBABILITY = "probability_"
AGE_EDGES = (40.0, 50.0, 60.0, 70.0)
MAX_LEVELS = 12
"""A column of numbers with more values than this is cut into quarters."""


@dataclass(frozen=True)
class Question:
    """What is asked of the files; None: found out from them."""

    label: str | None = None
    """The outcome's column in the table; else the one that holds the classes' names."""
    positive: str | None = None
    """The class that counts as positive; else the last of the predictions' classes."""
    patient: str | None = None
    """The column that names the patient, in all three files; else their first common one."""
    subgroups: tuple[str, ...] = ()
    """Columns of the table whose values divide the patients."""


@dataclass(frozen=True)
class Comparison:
    """The answer."""

    label: str
    positive: str
    num_rows: int
    num_positive: int
    """Of the rows."""
    num_without: int
    """Rows that lack an outcome or a prediction of either model; they count in nothing."""
    test: DeLong
    subgroups: tuple[SubgroupRow, ...]
    """The difference of the AUROCs in each."""


def compare(first: Path, second: Path, truth: Path, question: Question) -> Comparison:
    """Return how two models' predictions compare on the patients of `truth`.

    Rows go together by their number in the table and, where all files have it, by the patient's
    id as well. n counts patients; a patient's rows are taken as one draw.

    Raises:
        ConfigError: a column or class that was asked for is in none of the files.
        SiteDataError: the files are not of the same patients, or hold no predictions.
        NoPatientsError: nobody has an outcome and both predictions.
    """
    files = [_predictions(path) for path in (first, second)]
    frame = read_frame(truth)
    classes = _classes(files[0], first)
    if classes != _classes(files[1], second):
        raise SiteDataError(f"{second}: has other classes than {first}")
    positive = question.positive or classes[-1]
    if positive not in classes:
        raise ConfigError(
            f"--positive: no class {positive!r}; the files have {', '.join(classes)}"
            f"{did_you_mean(positive, classes)}"
        )
    patient = _patient_column([*files, frame], question.patient)
    scores = [
        _scores(file, frame, patient, PROBABILITY + positive, place)
        for file, place in zip(files, (first, second), strict=True)
    ]
    label = question.label or _label_column(frame, classes, truth)
    outcome = _outcome(frame, label, classes, positive)
    known = ~np.isnan(outcome) & ~np.isnan(scores[0]) & ~np.isnan(scores[1])
    if not known.any():
        raise NoPatientsError(f"{truth}: no row has an outcome and a prediction of both models")
    who = frame[patient].to_numpy(dtype=object) if patient else np.arange(len(frame))
    who = np.unique(who.astype(str)[known], return_inverse=True)[1]
    y, (p, q) = outcome[known], (score[known] for score in scores)
    groups = {name: _levels(frame, name)[known] for name in question.subgroups}

    def difference(rows: npt.NDArray[np.bool_]) -> Any:
        return delong_test(y[rows], p[rows], q[rows], patient_id=who[rows]).difference

    return Comparison(
        label=label,
        positive=positive,
        num_rows=int(known.sum()),
        num_positive=int(y.sum()),
        num_without=int((~known).sum()),
        test=delong_test(y, p, q, patient_id=who),
        subgroups=tuple(subgroup_table(groups, who, difference, min_patients=MIN_PATIENTS)),
    )


def _predictions(path: Path) -> pd.DataFrame:
    frame = read_frame(path)
    if ROW not in frame.columns:
        raise SiteDataError(f"{path}: no column `row`; expected a file of `fedward predict`")
    rows = pd.to_numeric(frame[ROW], errors="coerce")
    if rows.isna().any() or rows.duplicated().any():
        raise SiteDataError(f"{path}: column `row` must hold each row of the table once")
    return frame.assign(**{ROW: rows.astype(np.int64)})


def _classes(frame: pd.DataFrame, path: Path) -> list[str]:
    names = [str(name) for name in frame.columns if str(name).startswith(PROBABILITY)]
    if not names:
        raise SiteDataError(f"{path}: no column starts with `{PROBABILITY}`")
    return [name.removeprefix(PROBABILITY) for name in names]


def _patient_column(frames: Sequence[pd.DataFrame], asked: str | None) -> str | None:
    """Return the column that names the patient in every file, or None."""
    common = [
        str(name)
        for name in frames[0].columns
        if name != ROW
        and not str(name).startswith(PROBABILITY)
        and all(name in frame.columns for frame in frames)
    ]
    if asked is None:
        return common[0] if common else None
    if asked not in common:
        raise ConfigError(f"--patient: column {asked!r} is not in all three files")
    return asked


def _scores(
    file: pd.DataFrame, frame: pd.DataFrame, patient: str | None, column: str, place: Path
) -> npt.NDArray[np.float64]:
    """Return (N,) probabilities in the order of the table, NaN where there is none."""
    place_of_row = file[ROW].to_numpy() - 1
    if place_of_row.min(initial=0) < 0 or place_of_row.max(initial=-1) >= len(frame):
        raise SiteDataError(f"{place}: has rows that the table lacks; is it of the same table?")
    if patient is not None:
        here = file[patient].astype(str).to_numpy()
        there = frame[patient].astype(str).to_numpy()[place_of_row]
        if (here != there).any():
            raise SiteDataError(
                f"{place}: {int((here != there).sum())} rows have another {patient} than the table"
            )
    scores = np.full(len(frame), np.nan)
    scores[place_of_row] = pd.to_numeric(file[column], errors="coerce").to_numpy(dtype=np.float64)
    return scores


def _label_column(frame: pd.DataFrame, classes: Sequence[str], truth: Path) -> str:
    """Return the one column whose values are names of the classes."""
    found = [
        str(name)
        for name in frame.columns
        if (values := set(frame[name].dropna().astype(str))) and values <= set(classes)
    ]
    if len(found) != 1:
        how_many = "several columns hold" if found else "no column holds"
        raise ConfigError(f"{truth}: {how_many} the classes' names; say which with --label")
    return found[0]


def _outcome(
    frame: pd.DataFrame, label: str, classes: Sequence[str], positive: str
) -> npt.NDArray[np.float64]:
    """Return (N,) 1, 0 or NaN; the table may hold the classes' names, or their numbers from 0."""
    if label not in frame.columns:
        names = [str(name) for name in frame.columns]
        raise ConfigError(f"--label: no column {label!r}{did_you_mean(label, names)}")
    column = frame[label]
    text = _texts(column)
    known = column.notna().to_numpy()
    outcome = np.full(len(frame), np.nan)
    if set(text[known]) <= set(classes):
        outcome[known] = text[known] == positive
        return outcome
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    if not np.isin(numbers[known], np.arange(len(classes))).all():
        raise SiteDataError(
            f"column {label}: neither names of the classes ({', '.join(classes)}) nor their numbers"
        )
    outcome[known] = numbers[known] == classes.index(positive)
    return outcome


def _levels(frame: pd.DataFrame, name: str) -> npt.NDArray[np.str_]:
    """Return (N,) texts: a column's values, or bands of its numbers."""
    if name not in frame.columns:
        names = [str(column) for column in frame.columns]
        raise ConfigError(f"--by: no column {name!r}{did_you_mean(name, names)}")
    column = frame[name]
    if not pd.api.types.is_numeric_dtype(column) or column.nunique() <= MAX_LEVELS:
        return np.where(column.isna(), "", _texts(column))
    values = column.to_numpy(dtype=np.float64)
    if name == "age":
        return bands(values, AGE_EDGES)
    quarters = np.unique(np.nanquantile(values, (0.25, 0.5, 0.75)))
    return bands(values, quarters.tolist())


def _texts(column: pd.Series) -> npt.NDArray[np.str_]:
    """Return (N,) texts; pandas' own conversion cuts them off where a cell is missing."""
    return np.array([str(value) for value in column], dtype=str)
