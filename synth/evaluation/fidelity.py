"""How true the synthetic rows are: margins, pairs of columns, possible values, and detection.

Nothing here says whether patients are safe: a copy of the training rows is perfectly true.

SDMetrics (MIT) is not used: its KSComplement, TVComplement and CorrelationSimilarity are the
figures of `margins.py` and `associations.py` turned round, without weights for tables that are
balanced on purpose and without the holdout as a baseline; its detection is a logistic regression.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedward.common.task import Metric
from fedward.synth.evaluation.associations import Associations, associations
from fedward.synth.evaluation.detection import detection
from fedward.synth.evaluation.margins import Margin, margins
from fedward.synth.evaluation.plausibility import Plausibility, plausibility
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns


@dataclass(frozen=True)
class ClassShare:
    """How common a class is; a difference is mostly wanted."""

    name: str
    real: float
    synthetic: float


@dataclass(frozen=True)
class Fidelity:
    """All that compares the released table with the training rows."""

    classes: tuple[ClassShare, ...]
    margins: tuple[Margin, ...]
    mean_margin: float | None
    """Mean over the columns of their distances."""
    mean_margin_baseline: float | None
    associations: Associations
    plausibility: Plausibility
    detection: Metric


def evaluate_fidelity(
    columns: Columns,
    *,
    train: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame | None = None,
    seed: int,
) -> Fidelity:
    """Return how `synthetic` differs from `train`, beside how `holdout` does by chance.

    Args:
        columns: of all tables.
        train: the rows that the synthesiser has seen.
        synthetic: the rows to be released.
        holdout: other patients of the same site.
        seed: of the detection.
    """
    found = margins(columns, train, synthetic, holdout)
    return Fidelity(
        _classes(columns, train, synthetic),
        found,
        _mean([one.distance for one in found]),
        _mean([one.baseline for one in found]),
        associations(columns, train, synthetic, holdout),
        plausibility(columns, train, synthetic),
        detection(columns, train, synthetic, seed=seed),
    )


def _classes(
    columns: Columns, train: pd.DataFrame, synthetic: pd.DataFrame
) -> tuple[ClassShare, ...]:
    if columns.label is None:
        return ()
    shares = [
        np.bincount(class_codes(columns, table), minlength=len(columns.classes)) / len(table)
        for table in (train, synthetic)
    ]
    return tuple(
        ClassShare(name, float(real), float(made))
        for name, real, made in zip(columns.class_names, *shares, strict=True)
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
