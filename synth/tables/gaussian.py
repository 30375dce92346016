"""A baseline: one multivariate normal distribution per class."""

from typing import ClassVar

import numpy as np

from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Form, Missing
from fedward.synth.tables.latent import ClassLatent, Learning, ScoredNumbers, learn_classes
from fedward.synth.tables.margins import normal_margin
from fedward.synth.tables.rows import Candidates, Floats, Ints, Rows
from fedward.synth.tables.sampling import Shortfall
from fedward.synth.tables.scale import Transform

FEWEST = 2


class ClassGaussian(Synthesiser):
    """Learns means, deviations and a shrunk correlation of each class.

    Numbers are normal on the scale of the encoder (a logarithm where a column is skewed) and
    reflected at their bounds; categories and gaps are ordered intervals of normal values that are
    correlated with them, as in `GaussianCopula`.

    Privacy: what is kept are means, deviations, shares and correlations, but also bounds and
    categories that were read off the rows, where no schema gave them. No guarantee.

    Args:
        columns: see `Synthesiser`, as for all that is not named here.
        transform: of numbers; see `Form`. `quantile` keeps the training values.
        missing: `keep` generates missing cells; `median` fills them before learning.
    """

    # With `quantile`, and where bounds are observed, values of patients are part of it.
    holds_patients: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - parameters, as scikit-learn wants them
        self,
        columns: Columns | TableSchema | None = None,
        *,
        transform: Transform = "auto",
        missing: Missing = "keep",
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.transform = transform
        self.missing = missing
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        """How tables are encoded."""
        return Form(transform=self.transform, missing=self.missing)

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        allowed = tuple(
            np.ones(len(column.categories), dtype=bool) for column in self.columns_.categorical
        )
        parts = [rows.take(code_N == code) for code in range(len(self.class_sizes_))]
        self.classes_: tuple[ClassLatent, ...] = learn_classes(
            parts, _learn_numbers, Learning(allowed, FEWEST)
        )

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        return Candidates(self.classes_[code].draw(size, rng))


def _learn_numbers(place: int, known_N: Floats) -> ScoredNumbers:
    margin = normal_margin(known_N)
    return ScoredNumbers(margin, (known_N - margin.mean) / (margin.deviation or 1.0))
