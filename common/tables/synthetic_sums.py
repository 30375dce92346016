"""What a federated copula asks of sites, in two passes of sums: counts first, then pairs.

The first pass counts patients by class and cell (`bins.py`). Added up over sites, they are the
margins under which each site takes its patients' normal scores; the second pass sums the products
of those (`copula_sums.py`). The form of both follows from the signed request alone.

Shapes: as in `bins.py` and `copula_sums.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.tables.bins import Cells, Floats
from fedward.common.tables.copula_sums import ClassCopula, Margins, correlations, num_pairs
from fedward.common.tables.schema import TableSchema

MARGINS: Literal["margins"] = "margins"
PAIRS: Literal["pairs"] = "pairs"
Pass = Literal["margins", "pairs"]
SIZES, COUNTS = "margins.sizes", "margins.counts"
PAIR_SUMS, PAIR_PATIENTS = "pairs.sums", "pairs.patients"
NUM_SITES = "margins.sites"
"""Beside the summed margins that are sent out: how many sites are in them."""
BINS, NOISED_BINS = 128, 24
"""Where the run does not say: noise falls on every bin, so there are fewer with it."""
FEWEST_DEVIATIONS = 1.5
"""A cell whose noised count is below so many standard deviations of its noise counts as empty."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SumsForm:
    """The arrays of both passes, and what they say together."""

    cells: Cells
    num_classes: int
    is_noised: bool

    @classmethod
    def of(
        cls, config: SynthesisConfig, schema: TableSchema, features: tuple[str, ...] | None
    ) -> "SumsForm":
        """Return the form that a run asks for."""
        bins = config.bins or (NOISED_BINS if config.is_private else BINS)
        return cls(Cells(schema.select(features), bins), schema.num_classes, config.is_private)

    def empty(self, which: Pass) -> dict[str, npt.NDArray[Any]]:
        """Return arrays of the form of one pass, with zeros."""
        if which == MARGINS:
            shape = self.num_classes, self.cells.size
            return {SIZES: np.zeros(self.num_classes), COUNTS: np.zeros(shape)}
        shape = self.num_classes, num_pairs(len(self.cells.fields))
        return {PAIR_SUMS: np.zeros(shape), PAIR_PATIENTS: np.zeros(shape)}

    def why_not(self, which: Pass, arrays: Arrays, cohort_bound: int) -> str | None:
        """Return what is wrong with arrays of the right form that a site sent; None: nothing.

        Args:
            which: pass.
            arrays: finite.
            cohort_bound: most patients that the site is registered with.
        """
        if self.is_noised:
            return None  # noise has no bounds
        counted = arrays[SIZES] if which == MARGINS else arrays[PAIR_PATIENTS].max(axis=1)
        if counted.min() < 0 or counted.sum() > cohort_bound + 1e-6:
            return f"it counts patients that are not in 0..{cohort_bound}, the registered cohort"
        if which == PAIRS:
            return None
        for place in self.cells.places:
            own = arrays[COUNTS][:, place]
            if own.min() < 0 or not np.allclose(own.sum(axis=1), arrays[SIZES], atol=1e-6):
                return "its counts do not add up to its patients"
        return None

    def margins(self, summed: Arrays, *, deviation: float = 0.0) -> dict[int, Margins]:
        """Return the margins of each class that has any patient.

        Args:
            summed: the first pass, added up over the sites that are in it.
            deviation: of the noise on each of those sums; 0: there is none.
        """
        return {
            code: Margins(self.cells, without_noise(summed[COUNTS][code], deviation))
            for code, size in enumerate(summed[SIZES])
            if size >= 1
        }

    def copulas(
        self,
        summed: Arrays,
        *,
        fewest: float,
        deviation: float = 0.0,
        pair_deviations: Mapping[int, float] | None = None,
    ) -> dict[int, ClassCopula]:
        """Return the copula of each class of which at least `fewest` patients are counted.

        Args:
            summed: both passes, added up over the sites.
            fewest: patients of a class.
            deviation: of the noise on each count.
            pair_deviations: by class, of the noise on each sum of a pair.
        """
        found = {}
        for code, margins in self.margins(summed, deviation=deviation).items():
            if summed[SIZES][code] < fewest:
                continue
            patients_P = summed[PAIR_PATIENTS][code]
            if self.is_noised:  # nobody says how many: those of the class
                patients_P = np.full_like(patients_P, summed[SIZES][code])
            noise = (pair_deviations or {}).get(code, 0.0)
            sums_P = shrunk(summed[PAIR_SUMS][code], noise)
            found[code] = ClassCopula(margins, correlations(sums_P, patients_P, margins))
        return found


def without_noise(counts_C: Floats, deviation: float) -> Floats:
    """Return counts in which cells that are hardly more than noise are empty.

    Otherwise the many empty bins at the ends of a wide range would get half of the noise, as rows
    that nobody has ever seen the like of. It costs no privacy: the counts are noised already.
    """
    if deviation == 0:
        return counts_C
    return np.where(counts_C < FEWEST_DEVIATIONS * deviation, 0.0, counts_C)


def shrunk(sums_P: Floats, deviation: float) -> Floats:
    """Return sums shrunk towards 0 by as much as noise is likely to be behind them.

    Source: the estimate of least expected error where a true sum is as large as it looks
    (Wiener 1949): x^3 / (x^2 + s^2).
    """
    if deviation == 0:
        return sums_P
    return sums_P**3 / (sums_P**2 + deviation**2)
