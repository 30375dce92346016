"""Can one value of a patient be guessed from all the others, with the released rows at hand?

After Giomi et al. 2023 (arXiv:2211.10459, section 3.4): the attacker knows every column of
a patient but the secret one, and guesses what the nearest released row has there. Each column
is the secret once, the label too. A guess of a category must be equal, one of a number within
5 % of the range that nine tenths of the holdout have (the article: 5 % of the value, which fails
at zero). The naive attacker guesses the released rows' most frequent category or median.

Patients without the secret value are not asked for it, and released rows without it not consulted.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
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
    columns = with_label(trial.columns)
    members, control = _some(trial.members, rng), _some(trial.holdout, rng)
    together: list[tuple[Hits, Hits, Hits]] = []
    risks = []
    for secret in columns:
        known = replace(columns, columns=tuple(c for c in columns if c != secret))
        released = trial.synthetic[trial.synthetic[secret.name].notna()]
        if not len(known) or len(released) < MIN_PATIENTS:
            reason = f"{len(released)} released rows have it, {len(known)} columns to guess it from"
            risks.append(no_risk_known(NAME, secret.name, 0.0, len(members), reason))
            continue
        right = _Guesser(known, secret, released, _tolerance(secret, trial.holdout))
        hits = (right.nearest(members), right.naive(members), right.nearest(control))
        together.append(hits)
        risks.append(residual_risk(NAME, secret.name, _rates(hits)))
    if not together:
        return no_risk_known(NAME, ALL, 0.0, len(members), "no secret can be guessed"), *risks
    shares = [_mean(side) for side in zip(*together, strict=True)]
    return residual_risk(NAME, ALL, _rates((shares[0], shares[1], shares[2]))), *risks


class _Guesser:
    """Guesses one secret from the known columns, and says which guesses are right."""

    def __init__(
        self, known: Columns, secret: Column, released: pd.DataFrame, tolerance: float
    ) -> None:
        gaps = tuple(name for name in known.names if released[name].isna().any())
        self._secret = secret
        self._tolerance = tolerance
        self._space = RowSpace(known, released, gaps)
        self._released_ND = self._space(released)
        self._values = released[secret.name].to_numpy()

    def nearest(self, patients: pd.DataFrame) -> Hits:
        """Return whether the nearest released row has each patient's value."""

        def guess(asked: pd.DataFrame) -> npt.NDArray[Any]:
            row: npt.NDArray[np.int64] = nearest(self._space(asked), self._released_ND)[1][:, 0]
            return self._values[row]

        return self._hits(patients, guess)

    def naive(self, patients: pd.DataFrame) -> Hits:
        """Return whether the released rows' typical value is each patient's."""
        values = pd.Series(self._values)
        typical = values.median() if self._secret.is_continuous else values.mode().iloc[0]
        return self._hits(patients, lambda asked: np.full(len(asked), typical))

    def _hits(
        self, patients: pd.DataFrame, guess: Callable[[pd.DataFrame], npt.NDArray[Any]]
    ) -> Hits:
        there = patients[self._secret.name].notna().to_numpy()
        hits = np.full(len(patients), np.nan)
        if not there.any():
            return hits
        asked = patients[there]
        guessed, truth = guess(asked), asked[self._secret.name].to_numpy()
        if self._secret.is_continuous:
            hits[there] = np.abs(guessed - truth) <= self._tolerance
        else:
            hits[there] = guessed == truth
        return hits


def _some(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return frame.iloc[np.sort(rng.permutation(len(frame))[:MAX_PATIENTS])]


def _tolerance(secret: Column, holdout: pd.DataFrame) -> float:
    if not secret.is_continuous or holdout[secret.name].isna().all():
        return 0.0
    low, high = holdout[secret.name].quantile([0.05, 0.95])
    return TOLERANCE * float(high - low)


def _rates(hits: tuple[Hits, Hits, Hits]) -> Rates:
    attack, naive, control = (
        rate(float(np.nansum(side)), int((~np.isnan(side)).sum())) for side in hits
    )
    return Rates(attack, naive, control)


def _mean(secrets: tuple[Hits, ...]) -> Hits:
    """Return (P,) each patient's share of secrets guessed; NaN where there was none to guess."""
    hits_SP = np.stack(secrets)
    asked = (~np.isnan(hits_SP)).sum(axis=0)
    return np.where(asked, np.nansum(hits_SP, axis=0) / np.maximum(asked, 1), np.nan)
