"""Is the differentially private copula as private as it claims? An audit in one fit.

Canaries, rows that an attacker made up, enter the table by the toss of a coin each. The attacker
knows all of them and everything that the fitted object holds, and estimates the coins: the noisy
sums are a linear function of them. What it gets right refutes too small an epsilon
(`fedward.common.privacy.audit`, after Steinke, Nasr and Jagielski 2023, arXiv:2305.08846).

No patient takes part. An audit finds faults, such as too little noise or a contribution that is
longer than it was thought to be; that it finds none proves nothing. It is blunt: 80 guesses, all of
them right, show an epsilon of 3.25 and no more. So audit at a claim of 1: there a tenth of the
noise is found out, and half of it is not.

Legend: N canaries, D noisy sums.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedward.common.privacy.audit import EpsilonBound, bound_from_scores
from fedward.common.randomness import numpy_generator
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.dp_copula import DPGaussianCopula
from fedward.synth.tables.dp_noise import clipped
from fedward.synth.tables.dp_queries import Patients
from fedward.synth.tables.dp_release import Replay, release
from fedward.synth.tables.rows import Floats

NUM_COLUMNS = 60
"""Wide enough for the canaries' contributions to point in different directions."""
NUM_CANARIES = 400
GUESSED_SHARE = 0.2
"""Of the canaries: those of which the attacker is surest."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Audit:
    """A claim, and how far the attacker got."""

    claimed: float
    bound: EpsilonBound

    @property
    def is_refuted(self) -> bool:
        """Whether the mechanism is less private than it claims, at the confidence of the bound."""
        return self.bound.epsilon_low > self.claimed


def audit_copula(
    epsilon: float, delta: float, *, seed: int, num_canaries: int = NUM_CANARIES
) -> Audit:
    """Return what one fit among canaries tells of a `DPGaussianCopula`.

    Args:
        epsilon: that it is fitted with.
        delta: likewise.
        seed: of the canaries and their coins; the noise is the mechanism's own, cryptographic.
        num_canaries: 10 or more.
    """
    rng = numpy_generator(seed, purpose="privacy audit")
    canaries = canary_table(num_canaries, rng)
    is_member_N = rng.random(num_canaries) < 0.5
    model = DPGaussianCopula(canary_columns(), epsilon=epsilon, delta=delta)
    model.fit(canaries[is_member_N])
    score_N = membership_scores(model, canaries)
    bound = bound_from_scores(
        score_N,
        is_member_N,
        num_guesses=2 * round(GUESSED_SHARE * num_canaries / 2),
        delta=delta,
        confidence=CONFIDENCE,
    )
    return Audit(model.privacy_claim().epsilon, bound)


def canary_columns() -> Columns:
    """Return a table of numbers from 0 to 1 and a label with two classes."""
    return Columns(
        tuple(Column(f"x{place}", "continuous", 0.0, 1.0) for place in range(NUM_COLUMNS)),
        "y",
        (0, 1),
        ("negative", "positive"),
    )


def canary_table(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return (size) rows that are spread widely, so that few share a bin with another."""
    spread = 1 / (1 + np.exp(-rng.uniform(-7, 7, (size, NUM_COLUMNS))))
    table = pd.DataFrame(spread, columns=list(canary_columns().names))
    return table.assign(y=rng.integers(0, 2, size))


def membership_scores(model: DPGaussianCopula, canaries: pd.DataFrame) -> Floats:
    """Return (N,) estimates of whether each canary was learned, from the fitted object alone.

    By least squares over all noisy sums, each in units of its noise.

    Args:
        model: fitted among some of the canaries and nobody else.
        canaries: (N) all of them, in the form of the model's columns.
    """
    columns = model.columns_
    rows = model.encoder_.encode(canaries)
    code_N = canaries[columns.label].to_numpy(dtype=np.int64)
    everyone = Patients(rows, code_N)
    replay = Replay(model.answers_)
    release(columns, everyone, replay)
    effects, sums = [], []
    for query, answer in replay.asked:
        effect_ND = clipped(query.contribute(everyone), query.bound) / answer.deviation
        effects.append(effect_ND)
        sums.append(answer.sums_D / answer.deviation)
    effect_ND, sums_D = np.concatenate(effects, axis=1), np.concatenate(sums)
    surprise_D = sums_D - effect_ND.sum(axis=0) / 2
    score_N: Floats = np.linalg.lstsq(effect_ND.T, surprise_D)[0]
    return score_N
