"""A population of which as many patients can be drawn as a test needs, and what is made of them."""

import numpy as np
import pandas as pd

from fedward.synth.evaluation.trial import Trial, make_trial
from fedward.synth.tables.columns import Column, Columns

NUMBERS = tuple(f"lab{number}" for number in range(12))
COLUMNS = Columns(
    (
        *(Column(name, "continuous") for name in NUMBERS),
        Column("ward", "categorical", categories=("medicine", "surgery")),
    ),
    label="sepsis",
    classes=(0, 1),
    class_names=("no sepsis", "sepsis"),
)
LOADINGS = np.random.default_rng(0).normal(size=(3, len(NUMBERS)))


def population(n: int, rng: np.random.Generator, *, share: float = 0.3) -> pd.DataFrame:
    """Return patients with correlated labs; those with sepsis, a `share`, lie a little higher."""
    sepsis = (rng.random(n) < share).astype(int)
    labs = rng.normal(size=(n, 3)) @ LOADINGS + rng.normal(size=(n, len(NUMBERS)))
    frame = pd.DataFrame(labs + 0.5 * sepsis[:, None], columns=list(NUMBERS))
    frame["ward"] = np.where(rng.random(n) < 0.5, "medicine", "surgery")
    return frame.assign(sepsis=sepsis)


def with_gaps(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return the patients with a third of their labs not taken, each lab by itself."""
    gaps = rng.random((len(frame), len(NUMBERS))) < 1 / 3
    return frame.assign(**frame[list(NUMBERS)].mask(gaps))


def kernel_draws(
    members: pd.DataFrame, n: int, rng: np.random.Generator, *, noise: float
) -> pd.DataFrame:
    """Return n members with normal noise on each lab: a kernel density's draws, gaps kept."""
    parents = members.iloc[rng.integers(len(members), size=n)].reset_index(drop=True)
    labs = parents[list(NUMBERS)] + noise * rng.normal(size=(n, len(NUMBERS)))
    return parents.assign(**labs)


def gaussian_draws(fitted_on: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return draws of one normal distribution per class."""
    parts = []
    for sepsis, own in fitted_on.groupby("sepsis"):
        labs = own[list(NUMBERS)].to_numpy()
        size = round(n * len(own) / len(fitted_on))
        drawn = rng.multivariate_normal(labs.mean(axis=0), np.cov(labs.T), size)
        ward = rng.choice(own["ward"], size)
        parts.append(pd.DataFrame(drawn, columns=list(NUMBERS)).assign(ward=ward, sepsis=sepsis))
    return pd.concat(parts, ignore_index=True)


def trial_of(members: pd.DataFrame, synthetic: pd.DataFrame, rng: np.random.Generator) -> Trial:
    """Return the trial with as many fresh patients as holdout, and others as reference."""
    return make_trial(
        COLUMNS,
        members=members,
        synthetic=synthetic,
        holdout=population(len(members), rng),
        reference=population(600, rng),
    )
