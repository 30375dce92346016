"""A site's sums for a federated copula under differential privacy of its own patients.

Unit: one patient of the site, added or removed. Each pass is a Gaussian mechanism whose noise the
site itself adds, so that (epsilon, delta) holds against the coordinator and the other sites alike;
the two passes compose to mu^2 = mu_1^2 + mu_2^2, half of it each (`synth/tables/dp_budget.py`). No
patient is at two sites, so sites compose in parallel, and the federation's copula, with all rows
that are ever drawn from it, costs no more. Nothing is withheld by size: that would tell.

Not covered: that the site takes part, that it refuses where it has fewer than `min_cohort`
patients, and whoever has the site's key, from which the noise follows.

Shapes: as in `common/tables/bins.py` and `copula_sums.py`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedward.client.keyed_source import Below
from fedward.common.tables.bins import Floats
from fedward.common.tables.copula_sums import Margins
from fedward.common.tables.synthetic_sums import (
    COUNTS,
    NUM_SITES,
    PAIR_SUMS,
    PAIRS,
    SIZES,
    Arrays,
    SumsForm,
)
from fedward.common.tables.table import Table
from fedward.synth.tables.dp_budget import gaussian_mu
from fedward.synth.tables.dp_noise import noisy_sums

SIZE_WEIGHT = 2.0
"""A patient counts so much for the size of the class, and 1 for the cell of each field."""
LEAST_VARIANCE = 0.05
"""Scores that vary less, such as those of a value that is hardly ever missing, are left out: all
of them share one bound, so each costs the others accuracy."""
BLOCK = 1024


@dataclass(frozen=True)
class NoisedSumMaker:
    """Makes both passes of a site with noise.

    Args:
        form: of the sums.
        epsilon: of both passes together.
        delta: of both passes together.
    """

    form: SumsForm
    epsilon: float
    delta: float

    def margins(self, table: Table, below: Below) -> Arrays:
        """Return the first pass: noised patients of each class and cell.

        Args:
            table: the site's training patients, one row each.
            below: source of the noise.
        """
        num_classes, size = self.form.num_classes, self.form.cells.size
        sums = noisy_sums(
            self._counted(table),
            num_classes * (1 + size),
            bound=self._count_bound,
            deviation=self.count_deviation,
            below=below,
        )
        return {
            SIZES: sums[:num_classes] / SIZE_WEIGHT,
            COUNTS: sums[num_classes:].reshape(num_classes, size),
        }

    def pairs(self, table: Table, summed: Arrays, below: Below) -> Arrays:
        """Return the second pass: noised sums of products of scores.

        Args:
            table: as before.
            summed: the first pass, added up over the sites.
            below: source of the noise.
        """
        arrays = self.form.empty(PAIRS)
        for code, margins in self.summed_margins(summed).items():
            bound = pair_bound(margins)
            if bound > 0:
                arrays[PAIR_SUMS][code] = noisy_sums(
                    _products(table.take(table.label == code), margins),
                    arrays[PAIR_SUMS].shape[1],
                    bound=bound,
                    deviation=bound / self._mu,
                    below=below,
                )
        return arrays

    def summed_margins(self, summed: Arrays) -> Mapping[int, Margins]:
        """Return the margins of each class that follow from the sum over the sites."""
        return self.form.margins(summed, deviation=self.summed_deviation(summed))

    def summed_deviation(self, summed: Arrays) -> float:
        """Return the standard deviation of the noise on each summed count."""
        return self.count_deviation * math.sqrt(summed[NUM_SITES].item())

    def pair_deviations(self, summed: Arrays) -> dict[int, float]:
        """Return by class the standard deviation of the noise on each summed pair."""
        root = math.sqrt(summed[NUM_SITES].item())
        return {
            code: root * pair_bound(margins) / self._mu
            for code, margins in self.summed_margins(summed).items()
        }

    @property
    def count_deviation(self) -> float:
        """Standard deviation of the noise of one site on each count."""
        return self._count_bound / self._mu

    @cached_property
    def _mu(self) -> float:
        """Of each of the two passes."""
        return gaussian_mu(self.epsilon, self.delta) / math.sqrt(2)

    @property
    def _count_bound(self) -> float:
        """L2 norm of what one patient adds to the first pass."""
        return math.sqrt(len(self.form.cells.fields) + SIZE_WEIGHT**2)

    def _counted(self, table: Table) -> Iterator[Floats]:
        """Yield (n, K + K C) what each patient adds."""
        cells, num_classes = self.form.cells, self.form.num_classes
        for start in range(0, len(table), BLOCK):
            rows = table.take(np.arange(start, min(start + BLOCK, len(table))))
            index = np.arange(len(rows))
            sizes = np.zeros((len(rows), num_classes))
            sizes[index, rows.label] = SIZE_WEIGHT
            counts = np.zeros((len(rows), num_classes, cells.size))
            for place, field in enumerate(cells.fields):
                cell = cells.places[place].start + cells.cell_of(place, rows.columns[field.name])
                counts[index, rows.label, cell] = 1.0
            yield np.hstack([sizes, counts.reshape(len(rows), -1)])


def pair_bound(margins: Margins) -> float:
    """Return the L2 norm to which one patient's products of scores are clipped.

    That of a patient of average scores, by the margins alone: z z^T has norm |z|^2, and each pair
    stands once.
    """
    used_D = _used(margins)
    known_D = np.concatenate([1 - margins.missing_F, np.ones_like(margins.missing_F)])
    return float((margins.variance_D * known_D)[used_D].sum()) / math.sqrt(2)


def _products(table: Table, margins: Margins) -> Iterator[Floats]:
    """Yield (n, P) products of each patient's scores."""
    used_D = _used(margins)
    first_P, second_P = np.triu_indices(len(used_D), 1)
    for start in range(0, len(table), BLOCK):
        rows = table.take(np.arange(start, min(start + BLOCK, len(table))))
        z_ND = margins.scores(rows) * used_D
        yield z_ND[:, first_P] * z_ND[:, second_P]


def _used(margins: Margins) -> npt.NDArray[np.bool_]:
    used_D: npt.NDArray[np.bool_] = margins.variance_D > LEAST_VARIANCE
    return used_D
