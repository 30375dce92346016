"""Can a predicate made from the released rows point at exactly one patient?

After Giomi et al. 2023 (arXiv:2211.10459): the attacker holds the released rows only,
and writes predicates that are true of exactly one of them, in the hope that there is exactly one
such patient in the training table, too. A predicate is `univariate` (a column's smallest, largest
or only value) or `multivariate` (a few columns, each on the far side of a released row's value as
seen from the median).

The same predicates are tried on as many patients who were not in training: a predicate of weight
1/n isolates someone in 37 % of all tables of n patients, whoever they are (Cohen and Nissim 2020,
PNAS 117:8344). Naive predicates have the columns of the true ones, and values of any rows.

Where the holdout is the smaller table, that many members are drawn, so that a member who is not
drawn cannot be isolated: the risk is then understated.

Shapes: N rows, C columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.intervals import wilson
from fedward.common.task import Metric
from fedward.synth.evaluation.neighbours import codes
from fedward.synth.evaluation.risk import ALL, Rates, Risk, residual_risk
from fedward.synth.evaluation.trial import Trial, with_label

NUM_PREDICATES = 1_000
NUM_COLUMNS = 4
TRIES = 20
"""Candidates per wanted predicate; most are true of several released rows."""

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Comparison = Literal["<=", ">=", "==", "!=", "missing"]
Clause = tuple[int, Comparison, float]
"""Position of the column, how it is compared, and what with."""
Predicate = tuple[Clause, ...]

_HOLDS: dict[Comparison, Callable[[Values, float], Mask]] = {
    "<=": lambda values, bound: values <= bound,
    ">=": lambda values, bound: values >= bound,
    "==": lambda values, bound: values == bound,
    "!=": lambda values, bound: values != bound,
    "missing": lambda values, _: np.isnan(values),
}


@dataclass(frozen=True, repr=False)
class _Tables:
    released_NC: Values
    members_NC: Values
    control_NC: Values
    is_number: Mask
    """(C,) whether the column's values have an order."""


def singling_out_risks(trial: Trial, rng: np.random.Generator) -> tuple[Risk, Risk]:
    """Return `singling_out_univariate` and `singling_out_multivariate`.

    Args:
        trial: who is who.
        rng: draws rows, columns and predicates.
    """
    tables = _tables(trial, rng)
    return (
        _risk("singling_out_univariate", _univariate(tables, rng), tables, rng),
        _risk("singling_out_multivariate", _multivariate(tables, rng), tables, rng),
    )


def _tables(trial: Trial, rng: np.random.Generator) -> _Tables:
    n = min(len(trial.members), len(trial.holdout))
    columns = with_label(trial.columns)

    def some(frame: pd.DataFrame) -> Values:
        keep = rng.permutation(len(frame))[:n]
        return np.stack([codes(column, frame.iloc[keep]) for column in columns], axis=1)

    # As many released rows as patients: what isolates one of n isolates one of n others.
    return _Tables(
        some(trial.synthetic),
        some(trial.members),
        some(trial.holdout),
        np.array([column.is_continuous for column in columns]),
    )


def _risk(
    name: str, predicates: list[Predicate], tables: _Tables, rng: np.random.Generator
) -> Risk:
    naive = [_naive(predicate, tables, rng) for predicate in predicates]
    rates = Rates(
        attack=_rate(predicates, tables.members_NC),
        naive=_rate(naive, tables.members_NC),
        control=_rate(predicates, tables.control_NC),
    )
    return residual_risk(name, ALL, rates)


def _rate(predicates: list[Predicate], table_NC: Values) -> Metric:
    """Return the share of predicates that isolate a patient, with an interval over patients.

    Several predicates may point at one patient. Where w of them point at each, their number varies
    sum w^2 / sum w times as much as that of independent successes (a Poisson number of
    clusters); Wilson's interval is of so many fewer predicates (ours, by Kish's design
    effect).
    """
    if not predicates:
        return Metric(None, n=0, reason="no predicate is true of one released row")
    true_of = [np.flatnonzero(_holds(predicate, table_NC)) for predicate in predicates]
    isolated = [int(rows[0]) for rows in true_of if len(rows) == 1]
    n, weight = len(predicates), np.bincount(isolated) if isolated else np.ones(1)
    effective = n * float(weight.sum() / (weight**2).sum())
    share = len(isolated) / n
    low, high = wilson(share * effective, effective)
    return Metric(share, low, high, n=n)


def _holds(predicate: Predicate, table_NC: Values) -> Mask:
    true = np.ones(len(table_NC), dtype=bool)
    for column, comparison, value in predicate:
        true &= _HOLDS[comparison](table_NC[:, column], value)
    return true


def _univariate(tables: _Tables, rng: np.random.Generator) -> list[Predicate]:
    released_NC = tables.released_NC
    clauses: list[Clause] = []
    for column, is_number in enumerate(tables.is_number):
        values = released_NC[:, column]
        present, count = np.unique(values[~np.isnan(values)], return_counts=True)
        if np.isnan(values).sum() == 1:
            clauses.append((column, "missing", np.nan))
        if is_number and len(present):
            clauses += [(column, "<=", present[0]), (column, ">=", present[-1])]
        clauses += [(column, "==", value) for value in present[count == 1]]
    order = rng.permutation(len(clauses))
    return _isolating(((clauses[i],) for i in order), released_NC)


def _multivariate(tables: _Tables, rng: np.random.Generator) -> list[Predicate]:
    released_NC = tables.released_NC
    num_rows, num_columns = released_NC.shape
    has_values = ~np.isnan(released_NC).all(axis=0)
    median = np.full(num_columns, np.nan)
    median[has_values] = np.nanmedian(released_NC[:, has_values], axis=0)

    def candidate(row: int) -> Predicate:
        chosen = rng.choice(num_columns, size=min(NUM_COLUMNS, num_columns), replace=False)
        return tuple(
            _clause(c, released_NC[row, c], median[c], is_number=tables.is_number[c])
            for c in np.sort(chosen)
        )

    rows = rng.integers(num_rows, size=TRIES * NUM_PREDICATES)
    return _isolating((candidate(row) for row in rows), released_NC)


def _clause(column: int, value: float, median: float, *, is_number: bool) -> Clause:
    if np.isnan(value):
        return column, "missing", np.nan
    if not is_number:
        return column, "==", value
    return column, ">=" if value > median else "<=", value


def _isolating(candidates: Iterable[Predicate], released_NC: Values) -> list[Predicate]:
    """Return the first distinct candidates that are true of exactly one released row."""
    found: dict[Predicate, None] = {}
    for candidate in candidates:
        if candidate not in found and _holds(candidate, released_NC).sum() == 1:
            found[candidate] = None
        if len(found) == NUM_PREDICATES:
            break
    return list(found)


def _naive(predicate: Predicate, tables: _Tables, rng: np.random.Generator) -> Predicate:
    """Return a predicate on the same columns, with the value of any row and any comparison."""
    clauses: list[Clause] = []
    for column, _, _ in predicate:
        value = tables.released_NC[rng.integers(len(tables.released_NC)), column]
        side = rng.integers(2)
        if np.isnan(value):
            clauses.append((column, "missing", np.nan))
        elif not tables.is_number[column]:
            clauses.append((column, "!=" if side else "==", value))
        else:
            clauses.append((column, "<=" if side else ">=", value))
    return tuple(clauses)
