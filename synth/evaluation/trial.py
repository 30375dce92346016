"""Who is who when a synthetic table is attacked: members, others, and what the attacker holds."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from fedward.common.errors import SiteDataError
from fedward.common.randomness import seed_for
from fedward.synth.evaluation.risk import MIN_PATIENTS
from fedward.synth.tables.columns import Column, Columns

MAX_COMMON = 0.05
"""Largest share of the holdout that may equal a member's row, cell by cell."""


@dataclass(frozen=True, repr=False)
class Trial:
    """The tables of one evaluation, each in the form of `columns`. Patients: it has no repr."""

    columns: Columns
    members: pd.DataFrame
    """Rows that the synthesiser was fitted on."""
    holdout: pd.DataFrame
    """Other patients of the same population: the control of every attack."""
    non_members: pd.DataFrame
    """The part of the holdout that membership attacks are tried on; no row of it is in
    `reference`."""
    reference: pd.DataFrame
    """Rows of the population that the attacker of memberships has."""
    synthetic: pd.DataFrame
    """Rows as they are released: all of them, since the leak may grow with their number."""

    def strata(self) -> list[tuple[str, object]]:
        """Return name and value of each class; of a table without a label `all` and None."""
        if self.columns.label is None:
            return [("all", None)]
        return list(zip(self.columns.class_names, self.columns.classes, strict=True))

    def is_of(self, frame: pd.DataFrame, value: object) -> npt.NDArray[np.bool_]:
        """Return (N,) whether a row's label is `value`; of a table without a label, True."""
        if self.columns.label is None:
            return np.ones(len(frame), dtype=bool)
        is_of: npt.NDArray[np.bool_] = (frame[self.columns.label] == value).to_numpy(dtype=bool)
        return is_of


def make_trial(  # noqa: PLR0913 - the tables that it is made of
    columns: Columns,
    *,
    members: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame | None,
    reference: pd.DataFrame | None = None,
    seed: int = 0,
) -> Trial:
    """Return the trial; without a reference, half of the holdout (of each class) becomes it.

    Raises:
        SiteDataError: there is no holdout, it repeats members, or a column is absent.
    """
    if holdout is None or len(holdout) < MIN_PATIENTS:
        given = "none" if holdout is None else f"{len(holdout)} rows"
        raise SiteDataError(
            f"holdout: {given}, at least {MIN_PATIENTS} rows are needed: that an attack succeeds "
            "against members means nothing until it is known how often it succeeds against "
            "patients who were not in training; keep some aside before fitting"
        )
    tables = {"members": members, "synthetic": synthetic, "holdout": holdout}
    if reference is not None:
        tables["reference"] = reference
    names = list(columns.names) + ([columns.label] if columns.label else [])
    for table, frame in tables.items():
        absent = [name for name in names if name not in frame.columns]
        if absent:
            raise SiteDataError(f"{table}: no column {absent[0]!r}; expected {len(names)} columns")
        tables[table] = frame[names].reset_index(drop=True)
    _check_apart(columns, tables["members"], tables["holdout"])
    others = tables["holdout"]
    if reference is None:
        others, tables["reference"] = _halves(columns, others, seed)
    return Trial(columns, non_members=others, **tables)


def with_label(columns: Columns) -> Columns:
    """Return columns with the label as one more category, since it is a secret like others.

    Rules are left out: parts of the columns are taken, and a rule needs all of its own.
    """
    if columns.label is None:
        return replace(columns, constraints=())
    label = Column(columns.label, "categorical", categories=columns.classes)
    return replace(columns, columns=(*columns.columns, label), label=None, constraints=())


def _check_apart(columns: Columns, members: pd.DataFrame, holdout: pd.DataFrame) -> None:
    """Refuse a holdout of members, against whom every table looks harmless.

    Where no column is a number, twins are to be expected, and nothing is checked.
    """
    if not columns.continuous:
        return
    known = pd.util.hash_pandas_object(members, index=False)
    share = float(pd.util.hash_pandas_object(holdout, index=False).isin(known).mean())
    if share > MAX_COMMON:
        raise SiteDataError(
            f"holdout: {share:.0%} of its rows equal a member's in every column; it must hold "
            "other patients, or every attack looks as if it failed"
        )


def _halves(
    columns: Columns, holdout: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    strata = None
    if columns.label is not None:
        counts = holdout[columns.label].value_counts()
        # One row of a class cannot be halved.
        strata = holdout[columns.label] if counts.min() > 1 else None
    one, other = train_test_split(
        np.arange(len(holdout)),
        test_size=0.5,
        stratify=strata,
        random_state=seed_for(seed, purpose="attacker's reference") % 2**32,
    )
    return holdout.iloc[one], holdout.iloc[other]
