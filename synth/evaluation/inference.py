"""Can one value of a patient be guessed from all the others, with the released rows at hand?

After Giomi et al. 2023 (arXiv:2211.10459): the attacker knows every column of
a patient but the secret one, and guesses what the nearest released rows have there: their median
or most frequent category. Each column is the secret once, the label too. A guess of a category
must be equal, one of a number within 5 % of the range that nine tenths of the holdout have (the
article: 5 % of the value, which fails at zero). The naive attacker guesses the median or the most
frequent category of all released rows.

With several released rows per member, those made from a member are many, and their median is
nearer the truth than each; so half as many neighbours are asked as there are rows per member (ours;
the article asks one).

Patients without the secret value are not asked for it, and released rows without it not consulted.

Shapes: P patients, N released rows, D coordinates, K neighbours, S secrets.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from fedward.synth.evaluation.neighbours import Floats, Rows, RowSpace, codes, nearest
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
from fedward.synth.tables.columns import Column, Columns

NAME = "inference"
MAX_PATIENTS = 500
"""Patients attacked of each side: forty secrets of each are guessed in seconds."""
TOLERANCE = 0.05

Hits = npt.NDArray[np.float64]
"""(P,) 1 where the guess was right, 0 where it was not, NaN where there was nothing to guess."""


def inference_risks(trial: Trial, rng: np.random.Generator) -> tuple[Risk, ...]:
    """Return `inference`: of all secrets together, then of each secret, the label among them.

    Together, a patient's success is the share of the secrets guessed; the Wilson interval over
    patients is then wider than it need be. Of many single secrets some look leaked by chance:
    1 in 40 intervals lies above 0 where nothing leaks.

    Args:
        trial: who is who.
        rng: draws the patients where there are more than 500.
    """
    released = trial.synthetic.drop_duplicates()
    attacker = _Attacker(with_label(trial.columns), released, len(trial.members))
    members, control = _some(trial.members, rng), _some(trial.holdout, rng)
    points_PD, control_PD = attacker.space(members), attacker.space(control)
    together: list[tuple[Hits, Hits, Hits]] = []
    risks = []
    for secret in attacker.columns:
        num_having = int(released[secret.name].notna().sum())
        if len(attacker.columns) == 1 or num_having < max(attacker.k, MIN_PATIENTS):
            reason = f"{num_having} released rows of {len(attacker.columns)} columns have it"
            risks.append(no_risk_known(NAME, secret.name, 0.0, len(members), reason))
            continue
        within = _tolerance(secret, trial.holdout)
        hits = (
            _hits(secret, members, attacker.guess(secret, points_PD), within),
            _hits(secret, members, attacker.usual(secret), within),
            _hits(secret, control, attacker.guess(secret, control_PD), within),
        )
        together.append(hits)
        risks.append(residual_risk(NAME, secret.name, _rates(hits)))
    if not together:
        return no_risk_known(NAME, ALL, 0.0, len(members), "no secret can be guessed"), *risks
    attack, naive, of_control = (_shares(side) for side in zip(*together, strict=True))
    return residual_risk(NAME, ALL, _rates((attack, naive, of_control))), *risks


class _Attacker:
    """Holds the released rows, and guesses what patients have from the nearest ones."""

    def __init__(self, columns: Columns, released: pd.DataFrame, num_members: int) -> None:
        self.columns = columns
        self.k = max(1, round(len(released) / num_members / 2))
        self.space = RowSpace(columns, released, gaps_of=released)
        self._released = released
        self._points_ND = self.space(released)

    def guess(self, secret: Column, points_PD: Rows) -> Floats:
        """Return (P,) what the nearest released rows have, by all columns but the secret."""
        known = self.space.coordinates([c.name for c in self.columns if c != secret])
        values, having = self._values(secret)
        rows_PK = nearest(points_PD[:, known], self._points_ND[having][:, known], self.k)[1]
        return _typical(secret, values[rows_PK])

    def usual(self, secret: Column) -> Floats:
        """Return (1,) what is typical of all released rows."""
        return _typical(secret, self._values(secret)[0][None, :])

    def _values(self, secret: Column) -> tuple[Floats, npt.NDArray[np.bool_]]:
        values = codes(secret, self._released)
        having = ~np.isnan(values)
        return values[having], having


def _typical(secret: Column, values_PK: Floats) -> Floats:
    if secret.is_continuous:
        return np.median(values_PK, axis=1)
    mode: Floats = stats.mode(values_PK, axis=1).mode
    return mode


def _hits(secret: Column, patients: pd.DataFrame, guessed: Floats, within: float) -> Hits:
    truth = codes(secret, patients)
    right = (np.abs(guessed - truth) <= within).astype(np.float64)
    return np.where(np.isnan(truth), np.nan, right)


def _tolerance(secret: Column, holdout: pd.DataFrame) -> float:
    if not secret.is_continuous or holdout[secret.name].isna().all():
        return 0.0
    low, high = holdout[secret.name].quantile([0.05, 0.95])
    return TOLERANCE * float(high - low)


def _some(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return frame.iloc[np.sort(rng.permutation(len(frame))[:MAX_PATIENTS])]


def _rates(hits: tuple[Hits, Hits, Hits]) -> Rates:
    attack, naive, control = (
        rate(float(np.nansum(side)), int((~np.isnan(side)).sum())) for side in hits
    )
    return Rates(attack, naive, control)


def _shares(secrets: tuple[Hits, ...]) -> Hits:
    """Return (P,) each patient's share of secrets guessed; NaN where there was none to guess."""
    hits_SP = np.stack(secrets)
    asked = (~np.isnan(hits_SP)).sum(axis=0)
    return np.where(asked, np.nansum(hits_SP, axis=0) / np.maximum(asked, 1), np.nan)
