"""Can the released rows join two halves of a patient's record?

After Giomi et al. 2023 (arXiv:2211.10459, section 3.3): the attacker holds the released rows and
two other tables, one with some of a patient's columns, one with the rest. Two halves are linked
where they have a released row in common among the k nearest to each. Columns are parted at random,
differently for each quarter of the patients.

With several released rows per member a member's own ones are many, so k is the number of released
rows per member (ours; the article leaves k open), 50 at most.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from fedward.synth.evaluation.neighbours import RowSpace, nearest
from fedward.synth.evaluation.risk import (
    ALL,
    MIN_PATIENTS,
    Rates,
    Risk,
    no_risk_known,
    rate,
    residual_risk,
)
from fedward.synth.evaluation.trial import Trial, with_label
from fedward.synth.tables.columns import Columns

NAME = "linkability"
MAX_NEIGHBOURS = 50
NUM_PARTITIONS = 4


def linkability_risk(trial: Trial, rng: np.random.Generator) -> Risk:
    """Return how much oftener members' halves are linked than other patients'.

    The naive attacker takes k released rows at random for each half.

    Args:
        trial: who is who.
        rng: parts columns and patients.
    """
    columns, n = with_label(trial.columns), len(trial.members)
    # Of two equal released rows, one half might find the one, the other half the other.
    released = trial.synthetic.drop_duplicates()
    if len(columns) < 2 or len(released) < MIN_PATIENTS:
        reason = f"{len(released)} different released rows of {len(columns)} columns are too few"
        return no_risk_known(NAME, ALL, 0.0, n, reason)
    k = min(MAX_NEIGHBOURS, max(1, round(len(released) / n)))
    partitions = [_halves(columns, rng) for _ in range(NUM_PARTITIONS)]

    def linked(patients: pd.DataFrame) -> int:
        quarter = rng.permutation(len(patients)) % NUM_PARTITIONS
        return sum(
            _num_linked(halves, patients[quarter == number], released, k)
            for number, halves in enumerate(partitions)
        )

    by_chance = 1 - math.comb(len(released) - k, k) / math.comb(len(released), k)
    rates = Rates(
        attack=rate(linked(trial.members), n),
        naive=rate(by_chance * n, n),
        control=rate(linked(trial.holdout), len(trial.holdout)),
    )
    return residual_risk(NAME, ALL, rates)


def _halves(columns: Columns, rng: np.random.Generator) -> tuple[Columns, Columns]:
    order = [columns.columns[i] for i in rng.permutation(len(columns))]
    middle = len(order) // 2
    return (
        replace(columns, columns=tuple(order[:middle])),
        replace(columns, columns=tuple(order[middle:])),
    )


def _num_linked(
    halves: tuple[Columns, Columns], patients: pd.DataFrame, released: pd.DataFrame, k: int
) -> int:
    """Return for how many patients both halves have a released row in common."""
    if not len(patients):
        return 0
    found = []
    for half in halves:
        gaps = tuple(name for name in half.names if released[name].isna().any())
        space = RowSpace(half, released, gaps)
        found.append(nearest(space(patients), space(released), k)[1])
    one_PK, other_PK = found
    common = (one_PK[:, :, None] == other_PK[:, None, :]).any(axis=(1, 2))
    return int(common.sum())
