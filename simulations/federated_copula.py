"""A copula that a federation summed up, as a synthesiser: any number of rows, without a patient."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from fedward.common.tables.copula_sums import ClassCopula
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Encoder, Form
from fedward.synth.tables.rows import Candidates, Ints, Rows
from fedward.synth.tables.scale import Scale


class FederatedCopula(Synthesiser):
    """Draws rows from sums; nothing is fitted here, the sites did it.

    Args:
        columns: of the run's table.
        copulas: by class code.
        sizes: patients that each class was counted of, by class code.
    """

    holds_patients: ClassVar[bool] = False

    def __init__(
        self, columns: Columns, copulas: Mapping[int, ClassCopula], sizes: Mapping[int, float]
    ) -> None:
        self.columns = columns
        self.copulas = copulas
        self.sizes = sizes
        self.max_candidates = None
        self.on_shortfall = "raise"
        self._codes = tuple(sorted(copulas))
        self.columns_ = replace(
            columns,
            classes=tuple(columns.classes[code] for code in self._codes),
            class_names=tuple(columns.class_names[code] for code in self._codes),
        )
        self.class_sizes_ = tuple(round(sizes[code]) for code in self._codes)
        self.encoder_ = _plain_encoder(self.columns_)

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        raise TypeError("a federated copula is put together from sums; it sees no rows")

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        drawn = self.copulas[self._codes[code]].draw(size, rng)
        values = [drawn[column.name] for column in self.columns_.continuous]
        codes = [drawn[column.name] for column in self.columns_.categorical]
        absent_NM = np.isnan(np.column_stack([*values, *codes]))
        rows = Rows(
            np.nan_to_num(np.column_stack(values) if values else np.zeros((size, 0))),
            np.nan_to_num(np.column_stack(codes) if codes else np.zeros((size, 0)), nan=0.0).astype(
                np.int64
            ),
            absent_NM,
        )
        return Candidates(rows)


def _plain_encoder(columns: Columns) -> Encoder:
    """Return the encoder of rows that are in the units of the table already."""
    scales = tuple(
        Scale("none", 0.0, np.zeros(0), 0.0, 1.0, median=0.0, decimals=column.decimals)
        for column in columns.continuous
    )
    return Encoder(columns, Form(transform="none"), scales, (0,) * len(columns.categorical))
