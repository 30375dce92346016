"""Can the released rows join two halves of a patient's record?

After Giomi et al. 2023 (arXiv:2211.10459): the attacker holds the released rows and
two other tables, one with some of a patient's columns, one with the rest. Two halves are linked
where they have a released row in common among the k nearest to each. Columns are parted at random,
differently for each quarter of the patients.

With several released rows per member a member's own ones are many, so k is the number of released
rows per member (ours; the article leaves k open), 50 at most.

Shapes: P patients, N released rows, D coordinates, K neighbours.
"""

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.synth.evaluation.neighbours import Rows, RowSpace, nearest
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

NAME = "linkability"
MAX_NEIGHBOURS = 50
NUM_PARTITIONS = 4

Halves = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


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
    space = RowSpace(columns, released, gaps_of=released)
    points_ND = space(released)
    partitions = [_halves(space, columns.names, rng) for _ in range(NUM_PARTITIONS)]

    def linked(patients: pd.DataFrame) -> int:
        targets_PD = space(patients)
        quarter = rng.permutation(len(patients)) % NUM_PARTITIONS
        return sum(
            _num_linked(halves, targets_PD[quarter == number], points_ND, k)
            for number, halves in enumerate(partitions)
        )

    by_chance = 1 - math.comb(len(released) - k, k) / math.comb(len(released), k)
    rates = Rates(
        attack=rate(linked(trial.members), n),
        naive=rate(by_chance * n, n),
        control=rate(linked(trial.holdout), len(trial.holdout)),
    )
    return residual_risk(NAME, ALL, rates)


def _halves(space: RowSpace, names: tuple[str, ...], rng: np.random.Generator) -> Halves:
    """Return the coordinates of either half of the columns."""
    order = [names[i] for i in rng.permutation(len(names))]
    middle = len(order) // 2
    return space.coordinates(order[:middle]), space.coordinates(order[middle:])


def _num_linked(halves: Halves, targets_PD: Rows, released_ND: Rows, k: int) -> int:
    """Return for how many patients both halves have a released row in common."""
    if not len(targets_PD):
        return 0
    one_PK, other_PK = (nearest(targets_PD[:, half], released_ND[:, half], k)[1] for half in halves)
    return int((one_PK[:, :, None] == other_PK[:, None, :]).any(axis=(1, 2)).sum())
