"""What copulas of a federation ask of sites, pass by pass: sums, of a form that is known before.

A plain copula has two passes: `margins`, patients by class and cell (`bins.py`), and under the
margins of all sites `pairs`, sums of products of normal scores (`copula_sums.py`). One with
differential privacy has the noised queries of `fedward.synth.tables.dp_release`; how long each is
follows from earlier answers, so all come in one form that is long enough, with zeros at its end.

Every pass carries what the earlier ones added up to.

Shapes: as in `bins.py` and `copula_sums.py`; Q the longest query.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.tables.bins import Cells
from fedward.common.tables.copula_sums import ClassCopula, Margins, correlations, num_pairs
from fedward.common.tables.schema import TableSchema

MARGINS, PAIRS = "margins", "pairs"
SIZES, COUNTS, NUM_SITES = "margins.sizes", "margins.counts", "margins.sites"
PAIR_SUMS, PAIR_PATIENTS = "pairs.sums", "pairs.patients"
BINS = 128
"""Of a plain copula, where the run does not say."""
QUERIES = ("location", "margins", "means", "correlation")
SUMS, FACTS = "query.sums", "query.facts"
LOCATION_CELLS, MOST_CELLS = 12, 33
"""Of a noised query: most cells of one column, the one for missing values included."""

Arrays = dict[str, npt.NDArray[Any]]


class PassForm(Protocol):
    """The arrays of all passes of a copula."""

    @property
    def passes(self) -> tuple[str, ...]:
        """Their names, in order."""

    def empty(self, which: str) -> Arrays:
        """Return arrays of the form of one pass, with zeros."""

    def why_not(self, which: str, arrays: Arrays, cohort_bound: int) -> str | None:
        """Return what is wrong with arrays of the right form that a site sent; None: nothing.

        Args:
            which: pass.
            arrays: finite.
            cohort_bound: most patients that the site is registered with.
        """

    def odd(self, parts: Sequence[Arrays]) -> Sequence[int]:
        """Return the places of sites whose arrays cannot be added to those of most."""

    def added(self, which: str, parts: Sequence[Arrays]) -> Arrays:
        """Return what the sites' arrays of one pass add up to, as later passes carry it."""


def carried(form: PassForm, which: str) -> Arrays:
    """Return the arrays that come along with a pass, with zeros."""
    found: Arrays = {}
    for earlier in form.passes[: form.passes.index(which)]:
        found |= form.added(earlier, [form.empty(earlier)])
    return found


def form_of(
    config: SynthesisConfig, schema: TableSchema, features: tuple[str, ...] | None
) -> PassForm:
    """Return the form of the passes that a run asks for."""
    fields = schema.select(features)
    if not config.is_private:
        return SumsForm(Cells(fields, config.bins or BINS), schema.num_classes)
    numbers = [field for field in fields if field.kind == "continuous"]
    cells = [MOST_CELLS if field in numbers else len(field.categories) + 1 for field in fields]
    num_scores = 2 * len(fields)
    sizes = (
        schema.num_classes + LOCATION_CELLS * len(numbers),
        schema.num_classes * (1 + sum(cells)),
        schema.num_classes * num_scores,
        num_scores * (num_scores + 1) // 2,
    )
    kept = {
        "location": bool(numbers),
        "margins": True,
        "means": schema.num_classes > 1,
        "correlation": len(fields) > 1,
    }
    return QueryForm(tuple(name for name in QUERIES if kept[name]), max(sizes))


@dataclass(frozen=True)
class SumsForm:
    """The two passes of a plain copula, and what they say together."""

    cells: Cells
    num_classes: int

    @property
    def passes(self) -> tuple[str, ...]:
        """Their names, in order."""
        return MARGINS, PAIRS

    def empty(self, which: str) -> Arrays:
        """Return arrays of the form of one pass, with zeros."""
        if which == MARGINS:
            shape = self.num_classes, self.cells.size
            return {SIZES: np.zeros(self.num_classes), COUNTS: np.zeros(shape)}
        shape = self.num_classes, num_pairs(len(self.cells.fields))
        return {PAIR_SUMS: np.zeros(shape), PAIR_PATIENTS: np.zeros(shape)}

    def why_not(self, which: str, arrays: Arrays, cohort_bound: int) -> str | None:
        """Return what is wrong with arrays that a site sent, as `PassForm` says."""
        counted = arrays[SIZES] if which == MARGINS else arrays[PAIR_PATIENTS].max(axis=1)
        if counted.min() < 0 or counted.sum() > cohort_bound + 1e-6:
            return f"it counts patients that are not in 0..{cohort_bound}, the registered cohort"
        if which == PAIRS:
            return None
        for place in self.cells.places:
            own_KW = arrays[COUNTS][:, place]
            if own_KW.min() < 0 or not np.allclose(own_KW.sum(axis=1), arrays[SIZES], atol=1e-6):
                return "its counts do not add up to its patients"
        return None

    def odd(self, parts: Sequence[Arrays]) -> Sequence[int]:
        """Return nothing: counts of public cells always add up."""
        del parts
        return ()

    def added(self, which: str, parts: Sequence[Arrays]) -> Arrays:
        """Return the sums over sites, and of how many."""
        added = {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
        if which == MARGINS:
            added[NUM_SITES] = np.array([float(len(parts))])
        return added

    def margins(self, summed: Mapping[str, npt.NDArray[Any]]) -> dict[int, Margins]:
        """Return the margins of each class that has any patient, from the first pass."""
        return {
            code: Margins(self.cells, summed[COUNTS][code])
            for code, size in enumerate(summed[SIZES])
            if size > 0
        }

    def copulas(
        self, summed: Mapping[str, npt.NDArray[Any]], *, fewest: float
    ) -> dict[int, ClassCopula]:
        """Return the copula of each class of which at least `fewest` patients were counted."""
        return {
            code: ClassCopula(
                margins,
                correlations(summed[PAIR_SUMS][code], summed[PAIR_PATIENTS][code], margins),
            )
            for code, margins in self.margins(summed).items()
            if summed[SIZES][code] >= fewest
        }


@dataclass(frozen=True)
class QueryForm:
    """The noised queries of a copula with differential privacy.

    Args:
        passes: names of the queries.
        size: Q.
    """

    passes: tuple[str, ...]
    size: int

    def empty(self, which: str) -> Arrays:
        """Return arrays of the form of one query, with zeros."""
        del which
        return {SUMS: np.zeros(self.size), FACTS: np.zeros(3)}

    def put(self, sums_D: npt.NDArray[np.float64], bound: float, deviation: float) -> Arrays:
        """Return the arrays that hold a site's answer: sums, their bound, and their noise."""
        arrays = self.empty("")
        arrays[SUMS][: len(sums_D)] = sums_D
        arrays[FACTS][:] = len(sums_D), bound, deviation
        return arrays

    def why_not(self, which: str, arrays: Arrays, cohort_bound: int) -> str | None:
        """Return what is wrong with arrays that a site sent, as `PassForm` says.

        What noised sums are has no bounds.
        """
        del which, cohort_bound
        size, bound, deviation = arrays[FACTS]
        if not 0 < size <= self.size or size != int(size) or bound <= 0 or deviation <= 0:
            return "it describes its sums in a way that was not agreed"
        return "it sends more sums than it says" if arrays[SUMS][int(size) :].any() else None

    def odd(self, parts: Sequence[Arrays]) -> Sequence[int]:
        """Return the sites that answered a query of another size, bound or noise than most."""
        facts = [tuple(part[FACTS].tolist()) for part in parts]
        usual = max(facts, key=facts.count, default=None)
        return [place for place, found in enumerate(facts) if found != usual]

    def added(self, which: str, parts: Sequence[Arrays]) -> Arrays:
        """Return the sums over sites: their size, bound, noise together, and how many sites."""
        size, bound, deviation = parts[0][FACTS]
        facts = [size, bound, deviation * math.sqrt(len(parts)), float(len(parts))]
        sums = np.sum([part[SUMS] for part in parts], axis=0)
        return {f"{which}.{SUMS}": sums, f"{which}.{FACTS}": np.array(facts)}
