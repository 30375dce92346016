"""A figure per subgroup of patients: age bands, sex, place, site, each with n and interval.

Subgroups are small and many. With k of them one of twenty 95 % intervals misses its truth by
chance, so a table shows where to look and proves nothing; a subgroup of fewer than `MIN_PATIENTS`
patients has no figure at all, as it would say more of its patients than of the model.

Shapes: N rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.task import Metric

Rows = npt.NDArray[np.bool_]
MIN_PATIENTS = 5
UNKNOWN = "unknown"


@dataclass(frozen=True)
class SubgroupRow:
    """One line of the table."""

    group: str
    """What patients are divided by, such as `sex`."""
    level: str
    """Which of them, such as `F`."""
    num_patients: int
    metric: Metric


def subgroup_table(
    groups: Mapping[str, npt.NDArray[Any]],
    patient_id: npt.NDArray[Any],
    figure: Callable[[Rows], Metric],
    *,
    min_patients: int = MIN_PATIENTS,
) -> list[SubgroupRow]:
    """Return a line per level of each group, in alphabetical order, `unknown` last.

    Args:
        groups: (N,) texts per group, "" where unknown; see `bands` for numbers.
        patient_id: (N,) whose row it is.
        figure: of the rows that are True, such as the AUROC.
        min_patients: smaller subgroups say so instead of having a figure.
    """
    table = []
    for group, values in groups.items():
        text = np.array([str(value) or UNKNOWN for value in values.tolist()], dtype=str)
        for level in sorted(set(text.tolist()), key=lambda name: (name == UNKNOWN, name)):
            rows = text == level
            n = len(np.unique(patient_id[rows]))
            small = Metric(None, n=n, reason=f"fewer than {min_patients} patients")
            table.append(SubgroupRow(group, level, n, figure(rows) if n >= min_patients else small))
    return table


def bands(values: npt.NDArray[np.floating[Any]], edges: Sequence[float]) -> npt.NDArray[np.str_]:
    """Return (N,) the band that each value is in, such as `40 to 60`; "" for NaN.

    Args:
        values: (N,) such as ages.
        edges: ascending; a value on an edge belongs to the band above it.
    """
    names = [f"below {edges[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    names += [f"{edges[-1]:g} and above"]
    place = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="right")
    found = np.array(names, dtype=str)[place]
    return np.asarray(np.where(np.isnan(values), "", found))
