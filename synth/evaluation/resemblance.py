"""How close released rows are to training rows: resemblance, and no measure of privacy.

DCR is a released row's distance to the closest record, NNDR that distance over the one to the
second closest. A table that passes every test on them can be fully exposed to membership attacks,
and the distance of a noisy copy is the radius of its noise (Yao et al. 2025, "The DCR Delusion",
arXiv:2505.01524). So they are shown next to the same distances from patients who were not in
training, and never as a mark that a table passes.

Distances are Euclidean over numbers (imputed, standardised with the training rows' statistics) and
categories; the label does not count.

Shapes: N released rows, D coordinates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward.common.intervals import wilson
from fedward.common.task import Metric
from fedward.synth.evaluation.neighbours import Floats, RowSpace, nearest
from fedward.synth.evaluation.risk import MIN_PATIENTS
from fedward.synth.evaluation.trial import Trial


@dataclass(frozen=True)
class Spread:
    """Mean, 5th percentile and median of one distance per row."""

    mean: float
    p05: float
    median: float


@dataclass(frozen=True)
class Resemblance:
    """Distances of released rows to training rows and to as many of the holdout."""

    dcr: Spread
    """To the closest of all training rows."""
    nndr: Spread
    """Among all training rows."""
    dcr_train: Spread
    """To the closest of `num_each` training rows."""
    dcr_holdout: Spread
    """To the closest of `num_each` rows of the holdout."""
    nndr_train: Spread
    nndr_holdout: Spread
    nearer_to_train: Metric
    """Share of released rows nearer to one of `num_each` training rows than to one of as many of
    the holdout; 0.5 where they resemble both alike. `n`: released rows."""
    patients_to_patients: Spread
    """From the holdout to the closest of all training rows: what real patients have."""
    num_each: int


def resemblance(trial: Trial, rng: np.random.Generator) -> Resemblance | None:
    """Return the figures; None with fewer than 20 released rows or training rows.

    Args:
        trial: who is who.
        rng: draws as many training rows as the holdout has, or the reverse; breaks ties.
    """
    if min(len(trial.members), len(trial.synthetic)) < MIN_PATIENTS:
        return None
    space = RowSpace(trial.columns, trial.members)
    train, holdout, released = map(space, (trial.members, trial.holdout, trial.synthetic))
    n = min(len(train), len(holdout))
    train_n, holdout_n = (rows[rng.permutation(len(rows))[:n]] for rows in (train, holdout))
    all_train, _ = nearest(released, train, 2)
    to_train, which_train = nearest(released, train_n, 2)
    to_holdout, which_holdout = nearest(released, holdout_n, 2)
    gap = to_train[:, 0] - to_holdout[:, 0]
    nearer = np.where(gap == 0, rng.integers(2, size=len(gap)) == 1, gap < 0)
    patient = np.where(nearer, which_train[:, 0], n + which_holdout[:, 0])
    return Resemblance(
        _spread(all_train[:, 0]),
        _spread(_ratio(all_train)),
        _spread(to_train[:, 0]),
        _spread(to_holdout[:, 0]),
        _spread(_ratio(to_train)),
        _spread(_ratio(to_holdout)),
        _share(nearer, patient),
        _spread(nearest(holdout, train)[0][:, 0]),
        n,
    )


def _share(nearer: npt.NDArray[np.bool_], patient: npt.NDArray[np.int64]) -> Metric:
    """Return the share of `nearer` with an interval over patients, not over released rows.

    A patient may be the closest to many rows, and more rows do not make more patients. Wilson with
    the effective number of patients, (sum w)^2 / sum w^2 where w rows are closest to a patient
    (Kish 1965, Survey Sampling).
    """
    weight = np.bincount(patient).astype(np.float64)
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    share = float(nearer.mean())
    low, high = wilson(share * effective, effective)
    return Metric(share, low, high, n=len(nearer))


def _ratio(distances_N2: Floats) -> Floats:
    """Return NNDR; 1 where two records are equally close, also at distance 0."""
    closest, second = distances_N2.T
    ratio: Floats = np.divide(closest, second, out=np.ones_like(closest), where=second > 0)
    return ratio


def _spread(values: Floats) -> Spread:
    return Spread(
        float(values.mean()), float(np.quantile(values, 0.05)), float(np.quantile(values, 0.5))
    )
