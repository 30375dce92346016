"""Keeps figures of too few patients at the site, and those that would follow by subtraction.

A *cell* is a group of patients (all, a subgroup, a bin of the calibration curve), or the patients
of one class in such a group. Every cell whose figures or count leave holds at least `k` patients.
So does every cell that follows from those by adding and subtracting within one column of the
schema: the rest of the site beside the subgroups that are shown, or the patients between two
limits of age.

What it does not cover: counts of right and wrong answers inside a cell (a sensitivity of 19/20
tells that one was missed), intersections of subgroups of different columns, and two runs with
different splits of the same patients. It is disclosure control, not differential privacy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.images.mask_metrics import is_mask_figure
from fedward.common.tables.encode import SUMS_PER_FIELD
from fedward.common.tables.schema import SubgroupSchema, TableSchema

Report = Mapping[str, Any]
Figures = Mapping[str, Mapping[str, Any]]
Family = Mapping[str, frozenset[str]]
"""Subgroups of one column: by name, the disjoint pieces of the column that make each up."""

OTHER = "other"  # the piece of a column that no subgroup names: missing values, other categories
# Of both classes together, with no count of one class in value, interval or n.
CLASSLESS = frozenset({"accuracy", "brier", "ece"})
SAFE_REASONS = frozenset({"the model's probabilities are not finite"})


def families_of(schema: TableSchema) -> tuple[Family, ...]:
    """Return how the schema's subgroups overlap: one family per column that they look at."""
    columns: dict[str, list[SubgroupSchema]] = {}
    for group in schema.subgroups:
        columns.setdefault(group.column, []).append(group)
    return tuple(_family(groups) for groups in columns.values())


def suppress(
    report: Report, *, num_patients: int, k: int, families: Sequence[Family] = ()
) -> tuple[dict[str, Any], int]:
    """Return the report without cells of fewer than `k` patients, and how many were withheld.

    Args:
        report: `metrics`, `subgroups`, `calibration` and `validation` of an evaluation, and other
            keys.
        num_patients: how many patients it is about.
        k: fewest patients of a cell; 1 leaves the report as it is.
        families: how the subgroups overlap (`families_of`). One of no family is withheld: what
            follows from it cannot be known.
    """
    cleared = dict(report)
    if k <= 1:
        return cleared, 0
    found = _Cells.of(report, num_patients, k)
    names = found.shown(families)
    classes = found.shown_with_classes(names, families)
    withheld = 0
    if "metrics" in report:
        cleared["metrics"], count = _clear(
            found.overall, k, shown=found.all_shown, with_classes=found.both_classes
        )
        withheld += count
    if "subgroups" in report:
        groups = {}
        for name, figures in found.groups.items():
            metrics, count = _clear(figures, k, shown=name in names, with_classes=name in classes)
            groups[name] = {"metrics": metrics}
            withheld += count
        cleared["subgroups"] = groups
    if "calibration" in report:
        curve = _merged(report["calibration"], k) if found.both_classes else None
        withheld += 0 if curve else 1
        cleared.pop("calibration")
        if curve:
            cleared["calibration"] = curve
    if "validation" in report and report["validation"]["num_examples"] < k:
        cleared.pop("validation")
        withheld += 1
    return cleared, withheld


def suppress_sums(sums: npt.NDArray[np.float64], k: int) -> tuple[npt.NDArray[np.float64], int]:
    """Return preprocessing sums without those over fewer than `k` values, and how many went.

    The sum of a field that is known of one patient is that patient's value. A field that is
    withheld counts as not measured here: other sites' patients decide how it is scaled.

    Args:
        sums: (1 + 3 F,) the number of rows, then count, sum and sum of squares of F fields.
        k: fewest values; 1 leaves the sums as they are.
    """
    fields_FS = sums[1:].reshape(-1, SUMS_PER_FIELD).copy()
    few = (fields_FS[:, 0] > 0) & (fields_FS[:, 0] < k)
    fields_FS[few] = 0.0
    return np.concatenate([sums[:1], fields_FS.ravel()]), int(few.sum())


@dataclass(frozen=True)
class _Cells:
    """The counts in a report."""

    k: int
    overall: Figures
    groups: Mapping[str, Figures]
    counts_are_patients: bool

    @classmethod
    def of(cls, report: Report, num_patients: int, k: int) -> "_Cells":
        overall = report.get("metrics", {})
        groups = {name: group["metrics"] for name, group in report.get("subgroups", {}).items()}
        # Where a patient has several rows, n counts rows, and says nothing about patients.
        return cls(k, overall, groups, _count(overall) == num_patients)

    @property
    def all_shown(self) -> bool:
        """Whether figures of all patients together may leave."""
        return not self.counts_are_patients or _count(self.overall) >= self.k

    @property
    def both_classes(self) -> bool:
        """Whether figures of all patients by class may leave."""
        return self.counts_are_patients and _classes_hold(self.overall, self.k)

    def shown(self, families: Sequence[Family]) -> set[str]:
        """Return the subgroups whose number of patients may be known."""
        if not self.counts_are_patients:
            return set()
        counts = {name: _count(figures) for name, figures in self.groups.items()}
        return self._shown([(counts, _count(self.overall))], families)

    def shown_with_classes(self, names: set[str], families: Sequence[Family]) -> set[str]:
        """Return those of `names` whose numbers of patients by class may be known."""
        if not self.both_classes:
            return set()
        groups = {n: self.groups[n] for n in names if _classes_hold(self.groups[n], self.k)}
        if "sensitivity" not in self.overall:
            return set(groups)
        tables = [
            (
                {name: _n(figures.get(metric)) for name, figures in groups.items()},
                _n(self.overall[metric]),
            )
            for metric in ("sensitivity", "specificity")
        ]
        return self._shown(tables, families)

    def _shown(
        self, tables: Sequence[tuple[Mapping[str, int], int]], families: Sequence[Family]
    ) -> set[str]:
        names = set(tables[0][0])
        parts = [(names & set(family), family) for family in families]
        return {name for part, family in parts for name in _safe(part, tables, family, self.k)}


def _safe(
    names: set[str],
    tables: Sequence[tuple[Mapping[str, int], int]],
    family: Family,
    k: int,
) -> set[str]:
    """Return the subgroups of one column that may be shown, dropping the smallest first."""
    first = tables[0][0]
    shown = {name for name in names if all(counts[name] >= k for counts, _ in tables)}
    while shown:
        kept = [({name: counts[name] for name in shown}, total) for counts, total in tables]
        if not any(0 < cell < k for table in kept for cell in _derived(*table, family)):
            break
        shown.discard(min(shown, key=lambda name: (first[name], name)))
    return shown


def _derived(counts: Mapping[str, int], total: int, family: Family) -> list[int]:
    """Return the sizes of the smallest cells that follow from `counts` and `total`."""
    pieces = frozenset().union(*family.values())
    # Where one ends after the other begins, the overlap less those with no value at all follows:
    # a bound for either, and exact for who knows the other.
    sizes = [
        abs(total - counts[one] - counts[other])
        for one, other in combinations(counts, 2)
        if _cross(family[one], family[other])
    ]
    # The second time for a reader who knows that no value is missing.
    for everyone in (pieces | {OTHER}, pieces):
        blocks = {everyone: total, **{family[name]: count for name, count in counts.items()}}
        while nested := _nested(blocks):
            inner, outer = nested
            rest = blocks.pop(outer) - blocks[inner]
            blocks[outer - inner] = rest
        sizes += blocks.values()
    return sizes


def _cross(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one & other) and not one <= other and not other <= one


def _nested(
    blocks: Mapping[frozenset[str], int],
) -> tuple[frozenset[str], frozenset[str]] | None:
    pairs = ((a, b) for a in blocks for b in blocks if a < b)
    return next(pairs, None)


def _clear(
    figures: Figures, k: int, *, shown: bool, with_classes: bool
) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the figures with those that may not leave blanked, and their number."""
    cleared: dict[str, dict[str, Any]] = {}
    withheld = 0
    count = _count(figures)
    for name, figure in figures.items():
        undefined = figure["value"] is None and figure.get("reason") not in SAFE_REASONS
        classes_fit = with_classes and _classes_hold(figures, k, of=name.partition(".")[2])
        fits = shown and _n(figure) >= k
        fits = fits and (classes_fit or is_mask_figure(name) or name in CLASSLESS)
        if _tells_of_few(name, figure, count, k):
            fits = False
        if fits and not undefined:
            cleared[name] = dict(figure)
            continue
        withheld += 1
        reason = f"withheld by the site: it may tell of fewer than {k} patients"
        cleared[name] = {"value": None, "low": None, "high": None, "n": None, "reason": reason}
    return cleared, withheld


def _tells_of_few(name: str, figure: Mapping[str, Any], count: int, k: int) -> bool:
    """Return whether fewer than `k` lack a mask or label, or a count of rows is itself so small."""
    cells = [count - _n(figure)]
    if name.startswith("num_"):
        cells.append(int(figure["value"] or 0))
    return any(0 < cell < k for cell in cells)


def _merged(curve: Mapping[str, Sequence[float]], k: int) -> dict[str, list[float]] | None:
    """Return the curve with neighbouring bins joined until each holds `k` of both classes."""
    bins: list[list[float]] = []  # patients, positives, sum of predictions
    is_open = False
    for predicted, observed, n in zip(
        curve["predicted"], curve["observed"], curve["n"], strict=True
    ):
        new = [n, round(observed * n), predicted * n]
        if is_open:
            new = [a + b for a, b in zip(bins.pop(), new, strict=True)]
        bins.append(new)
        is_open = min(new[1], new[0] - new[1]) < k
    if is_open and len(bins) > 1:
        last = bins.pop()
        bins[-1] = [a + b for a, b in zip(bins[-1], last, strict=True)]
    if not bins or min(bins[-1][1], bins[-1][0] - bins[-1][1]) < k:
        return None
    return {
        "predicted": [predicted / n for n, _, predicted in bins],
        "observed": [positive / n for n, positive, _ in bins],
        "n": [int(n) for n, _, _ in bins],
    }


def _family(groups: Sequence[SubgroupSchema]) -> Family:
    cuts = sorted({cut for g in groups for cut in (g.at_least, g.below) if cut is not None})
    family: dict[str, frozenset[str]] = {}
    for group in groups:
        if group.equals is not None:
            family[group.name] = frozenset({f"={group.equals!r}"})
        else:
            first = 0 if group.at_least is None else cuts.index(group.at_least) + 1
            last = len(cuts) if group.below is None else cuts.index(group.below)
            family[group.name] = frozenset(f"#{piece}" for piece in range(first, last + 1))
    return family


def _classes_hold(figures: Figures, k: int, *, of: str = "") -> bool:
    """Return whether each class has `k` patients; True for figures that count no class.

    Args:
        figures: of one group.
        k: fewest patients.
        of: a sign, whose figures are called `sensitivity.<sign>`; empty: the label.
    """
    names = [f"{name}.{of}" if of else name for name in ("sensitivity", "specificity")]
    return all(_n(figures[name]) >= k for name in names if name in figures)


def _count(figures: Figures) -> int:
    return max((_n(figure) for figure in figures.values()), default=0)


def _n(figure: Mapping[str, Any] | None) -> int:
    return int((figure or {}).get("n") or 0)
