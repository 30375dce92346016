"""A site's sums for a federated copula: counts of its patients in public bins, and their pairs.

Without noise the site's rule of `k` holds for every cell of the counts. A bin with fewer patients
is pooled with its neighbours until `k` are in the group, and the group is spread evenly, so that
what leaves is how many patients lie between two edges, never in one bin. What still shows: between
which bins the lowest and highest value lie; that a category or a stretch of bins is empty; and the
exact number of patients of a class and of a group, so that two runs before and after a patient
joined tell of that patient. Where a class is withheld, the others are told in steps of `k`, so
that the total of another run does not give it away exactly.

Of two variables with two values each, the sum of their products is a table of four cells: it
leaves only if none of them holds 1 to k - 1 patients. Other pairs give one number for a whole
table, or for `k` patients with both values.

This is disclosure control, not differential privacy; that is `noised_sums.py`.

Shapes: as in `common/tables/bins.py` and `copula_sums.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward.common.errors import RefusedError, SiteDataError
from fedward.common.tables.bins import Cells, Floats
from fedward.common.tables.copula_sums import pair_sums
from fedward.common.tables.synthetic_sums import (
    COUNTS,
    NUM_SITES,
    PAIR_PATIENTS,
    PAIR_SUMS,
    PAIRS,
    SIZES,
    Arrays,
    SumsForm,
)
from fedward.common.tables.table import Table


@dataclass(frozen=True)
class SumMaker:
    """Makes both passes of a site without noise.

    Args:
        form: of the sums.
        fewest: patients of a class of which anything is given.
        k: fewest patients of any cell.
    """

    form: SumsForm
    fewest: int
    k: int

    def margins(self, table: Table) -> Arrays:
        """Return the first pass: patients of each class and cell.

        Raises:
            RefusedError: no class is large enough.
        """
        sizes = np.bincount(table.label, minlength=self.form.num_classes).astype(np.float64)
        kept = sizes >= self.fewest
        if not kept.any():
            raise RefusedError(
                f"synthesis: no class has the {self.fewest} patients that the run "
                "(synthesis.min_class_size) and the site (min_cohort) ask for; nothing is sent"
            )
        counts_KC = pooled(
            self.form.cells.counts(table, self.form.num_classes), self.form.cells, self.k
        )
        told = np.where(kept, sizes, 0.0)
        if (sizes[~kept] > 0).any():
            told = np.floor(told / self.k) * self.k
        share = np.divide(told, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        return {SIZES: told, COUNTS: counts_KC * share[:, np.newaxis]}

    def pairs(self, table: Table, summed: Arrays) -> Arrays:
        """Return the second pass: sums of products of scores under the margins of all sites.

        Raises:
            RefusedError: the margins do not hold this site's own patients: they were made up, in
                order to ask something else of them.
        """
        own = self.margins(table)
        _check_summed(summed, own)
        margins = self.form.margins(summed)
        arrays = self.form.empty(PAIRS)
        for code in np.flatnonzero(own[SIZES]):
            rows = table.take(table.label == code)
            z_ND = margins[int(code)].scores(rows)
            may_leave_P = pairs_that_leave(rows, self.form.cells, self.k)
            arrays[PAIR_SUMS][code] = np.where(may_leave_P, pair_sums(z_ND), 0.0)
            # Told in steps, as the size is; the sums keep their scale.
            told = own[SIZES][code]
            arrays[PAIR_SUMS][code] *= told / len(rows)
            arrays[PAIR_PATIENTS][code] = np.where(may_leave_P, told, 0.0)
        return arrays


def pooled(counts_KC: Floats, cells: Cells, k: int) -> Floats:
    """Return counts in which no group of cells holds 1 to k - 1 patients; totals stay.

    Missing values of fewer than `k` patients are spread over the known ones, and the other way
    round.
    """
    found_KC = counts_KC.copy()
    for row_C in found_KC:
        for place, edges in zip(cells.places, cells.edges, strict=True):
            known, missing = row_C[place][:-1].copy(), row_C[place][-1]
            if 0 < known.sum() < k:
                known, missing = np.zeros_like(known), missing + known.sum()
            elif 0 < missing < k and known.sum() > 0:
                known, missing = known * (1 + missing / known.sum()), 0.0
            pool = pool_categories if edges is None else pool_neighbours
            row_C[place] = [*pool(known, k), missing]
    return found_KC


def pool_neighbours(counts_B: Floats, k: float) -> Floats:
    """Return counts of neighbouring bins, pooled from the left into groups of `k` or more.

    Empty bins at the ends of a group stay empty; what is left at the right end joins the last
    group.
    """
    groups: list[list[float]] = []  # first bin, last bin, patients
    is_open = False
    for place in np.flatnonzero(counts_B).tolist():
        if is_open:
            groups[-1][1:] = [place, groups[-1][2] + counts_B[place]]
        else:
            groups.append([place, place, counts_B[place]])
        is_open = groups[-1][2] < k
    if is_open and len(groups) > 1:
        _, last, patients = groups.pop()
        groups[-1][1:] = [last, groups[-1][2] + patients]
    found_B = np.zeros_like(counts_B)
    for first, last, patients in groups:
        here = slice(int(first), int(last) + 1)
        found_B[here] = patients / (int(last) - int(first) + 1)
    return found_B


def pool_categories(counts_B: Floats, k: float) -> Floats:
    """Return counts of categories, of which the smallest are pooled until `k` are together."""
    found_B = counts_B.copy()
    order = [place for place in np.argsort(counts_B, kind="stable") if counts_B[place] > 0]
    group: list[int] = []
    for place in order:
        # Small ones, and the next larger ones until there are enough.
        if counts_B[place] >= k and (not group or counts_B[group].sum() >= k):
            break
        group.append(int(place))
    found_B[group] = counts_B[group].sum() / max(len(group), 1)
    return found_B


def pairs_that_leave(table: Table, cells: Cells, k: int) -> npt.NDArray[np.bool_]:
    """Return (P,) whether the sum over each pair of variables tells of `k` patients or more."""
    missing_NF = np.column_stack([np.isnan(table.columns[f.name]) for f in cells.fields])
    upper_NV, low_NV = _two_values(table, cells, missing_NF)
    count = len(cells.fields)
    few_VV = np.zeros((2 * count, 2 * count), dtype=bool)
    # A variable with many values is in neither list: only how often both are known counts.
    for one, other in ((upper_NV, upper_NV), (upper_NV, low_NV), (low_NV, low_NV)):
        both_VV = one.T.astype(np.float64) @ other
        few = (both_VV > 0) & (both_VV < k)
        few_VV |= few | few.T
    return ~few_VV[np.triu_indices(2 * count, 1)]


def _two_values(
    table: Table, cells: Cells, missing_NF: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return (N, 2 F) twice: who has one value of each variable, and who has the other.

    Of a field with two categories the first and the second; of any other one, everybody with a
    value is in the first. Of being missing: who is, and who is not.
    """
    one_NF, other_NF = ~missing_NF, np.zeros_like(missing_NF)
    for place, field in enumerate(cells.fields):
        if cells.edges[place] is None and cells.widths[place] == 2:
            values_N = table.columns[field.name]
            one_NF[:, place], other_NF[:, place] = values_N == 0, values_N == 1
    return np.hstack([one_NF, missing_NF]), np.hstack([other_NF, ~missing_NF])


def _check_summed(summed: Arrays, own: Arrays) -> None:
    missing = any((summed[name] < own[name] - 1e-6).any() for name in (SIZES, COUNTS))
    if missing or summed[NUM_SITES].item() < 1:
        raise RefusedError(
            "synthesis: the summed margins that came do not hold this site's own patients; "
            "nothing is sent"
        )


def check_one_row_each(table: Table) -> None:
    """Return if every patient has one row: a row of a synthetic table stands for a patient.

    Raises:
        SiteDataError: some have more.
    """
    if len(np.unique(table.patient_id)) < len(table):
        raise SiteDataError(
            "synthesis: patients have more than one row here; synthetic rows stand for patients, "
            "so join each patient's rows into one first"
        )
