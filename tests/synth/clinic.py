"""Patients of a made-up clinic with every kind of column, and synthesisers that are easy to see
through."""

import numpy as np
import pandas as pd

from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.constraints import Constraint
from fedward.synth.tables.encoder import Form
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall

CLINIC = Columns(
    (
        Column("age", "continuous", 0, 120, decimals=0, unit="years"),
        Column("systolic", "continuous", 40, 300, decimals=0),
        Column("diastolic", "continuous", 20, 200, decimals=0),
        Column("crp", "continuous", 0, 600, decimals=1, unit="mg/l"),
        Column("lactate", "continuous", 0, 30, decimals=2),
        Column("stage", "categorical", categories=("low", "middle", "high")),
        Column("female", "categorical", categories=(0, 1)),
    ),
    label="septic",
    classes=(0, 1),
    class_names=("no sepsis", "sepsis"),
    constraints=(Constraint.parse("systolic >= diastolic"),),
)


def patients(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return (n) rows, a quarter septic: older, inflamed, their lactate measured more often."""
    rng = np.random.default_rng(seed)
    septic = np.arange(n) % 4 == 0
    age = np.clip(rng.normal(55 + 10 * septic, 15), 0, 110).round()
    systolic = np.clip(rng.normal(125 - 15 * septic, 15), 60, 220).round()
    crp = np.minimum(np.exp(rng.normal(1 + 1.5 * septic, 1.0)), 500).round(1)
    severity = rng.normal(np.log1p(crp) - 1.5)
    return pd.DataFrame(
        {
            "age": age,
            "systolic": systolic,
            "diastolic": np.minimum((systolic * rng.uniform(0.55, 0.75, n)).round(), systolic),
            "crp": np.where(rng.random(n) < 0.1, np.nan, crp),
            "lactate": np.where(
                rng.random(n) < 0.6 - 0.4 * septic, np.nan, np.exp(rng.normal(0.5, 0.4, n)).round(2)
            ),
            "stage": np.array(["low", "middle", "high"])[np.digitize(severity, (0, 1))],
            "female": rng.integers(0, 2, n).astype(float),
            "septic": septic.astype(int),
        }
    )


class Uniform(Synthesiser):
    """Draws each cell between the training rows' extremes, and keeps what `passed` says.

    Args:
        passed: share of the candidates that its filter keeps.
        bounded: see `Form`.
    """

    def __init__(
        self,
        columns: Columns | TableSchema | None = None,
        *,
        passed: float = 1.0,
        bounded: bool = True,
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.passed = passed
        self.bounded = bounded
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        return Form(bounded=self.bounded)

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        self.rows_ = [rows.take(code_N == code) for code in range(len(self.class_sizes_))]

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        own = self.rows_[code]
        low, high = own.values_NF.min(axis=0), own.values_NF.max(axis=0)
        values_NF = rng.uniform(low, high, (size, len(low)))
        codes_NC = rng.integers(0, own.codes_NC.max(axis=0) + 1, (size, own.codes_NC.shape[1]))
        absent_NM = rng.random((size, own.absent_NM.shape[1])) < own.absent_NM.mean(axis=0)
        return Candidates(Rows(values_NF, codes_NC, absent_NM), np.arange(size))

    def _keep(self, code: int, drawn: Candidates) -> Bools:
        assert drawn.parent_N is not None
        kept: Bools = drawn.parent_N % 1000 < 1000 * self.passed
        return kept


class Copier(Uniform):
    """Gives back its training rows, as they are."""

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        parent_N = rng.integers(0, len(self.rows_[code]), size)
        return Candidates(self.rows_[code].take(parent_N), parent_N)


class ClassTold(Uniform):
    """Writes the code of the class into the first number: rows of a wrong class are seen."""

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        drawn = super()._draw(code, size, rng)
        told = self.encoder_.scales[0].forward(np.full(size, 10.0 + code))
        drawn.rows.values_NF[:, 0] = told
        drawn.rows.absent_NM[:, 0] = False
        return drawn
