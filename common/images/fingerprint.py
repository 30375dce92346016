"""The fingerprint of a federation's scans, as sums that sites can add: what nnU-Net plans from.

A site's vector is like that of `tables.encode.local_statistics`: the number of patients, then
triples. Each triple starts with a count of patients, and a site's gate withholds the triples of
few patients (`suppress_sums`) as it does for fields of a table. In order, with axes D, H, W:

| triples | count: patients | second | third |
|---|---|---|---|
| 37 per axis | whose median spacing is in the bin | 0 | 0 |
| 45 per axis | whose median number of voxels is in the bin | 0 | 0 |
| 512 | with voxels of that intensity in a structure | sum of their shares of such voxels | 0 |

Every patient counts once, however many scans or lesions: several are reduced to their median, and
their voxels to shares. The vectors of two sites add up, to the last bit, to that of both together,
provided that no patient is at both. What it does not cover: where the gate lets cells of a single
patient pass (`min_cohort: 1`, as in simulations), that patient's histogram can be told.

Source of what is measured: Isensee et al. 2021, Nature Methods 18:203, figure 2. Ours: histograms
instead of values, so that it can be federated.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.errors import NoPatientsError
from fedward.common.images.rows import (
    HAS,
    IMAGE,
    MASK,
    ORIGINAL_SIZE,
    ORIGINAL_SPACING_MM,
    SPACING_MM,
)

Vector = npt.NDArray[np.float64]
TRIPLE = 3
NUM_AXES = 3
BINS_PER_DOUBLING = 4


@dataclass(frozen=True)
class LogBins:
    """Bins whose middles are powers of 2 ** (1/4): a value is known to 9 %, 1 mm and 512 exactly.

    Finer ones would hold too few patients of a site to leave it.
    """

    lowest: int
    highest: int
    """Exponents of 2 of the first and last middle; what lies outside falls into those."""

    @property
    def num(self) -> int:
        """How many bins there are."""
        return (self.highest - self.lowest) * BINS_PER_DOUBLING + 1

    def index_of(self, value: float) -> int:
        """Return the bin of a positive value."""
        place = round((float(np.log2(value)) - self.lowest) * BINS_PER_DOUBLING)
        return min(max(place, 0), self.num - 1)

    def quantile(self, counts: Vector, share: float) -> float:
        """Return the middle of the bin in which `share` of the patients is reached."""
        place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
        return float(2.0 ** (self.lowest + min(place, self.num - 1) / BINS_PER_DOUBLING))


SPACING_BINS = LogBins(-4, 5)
"""0.06 to 32 mm."""
SIZE_BINS = LogBins(0, 11)
"""1 to 2048 voxels."""
LOWEST, HIGHEST, NUM_INTENSITIES = -1024.0, 3072.0, 512
"""In the schema's unit: HU in steps of 8."""
WIDTH = (HIGHEST - LOWEST) / NUM_INTENSITIES
SHARE_STEPS = 2.0**20

_SPACING = 0
_SIZE = _SPACING + NUM_AXES * SPACING_BINS.num
_INTENSITY = _SIZE + NUM_AXES * SIZE_BINS.num
_NUM_TRIPLES = _INTENSITY + NUM_INTENSITIES
FINGERPRINT_SIZE = 1 + TRIPLE * _NUM_TRIPLES
"""Length of the vector, known without data."""


@dataclass(frozen=True, repr=False)
class Case:
    """What one scan, or one row, adds. It has no repr: it is a patient's."""

    patient: int | str
    size: tuple[int, ...]
    """Voxels along D, H, W; or H, W."""
    spacing_mm: tuple[float, ...] | None
    """Along the same axes; None where it is not known."""
    foreground: npt.NDArray[np.integer | np.floating]
    """(V,) the voxels inside the structures, in the schema's unit; empty without a mask."""


@dataclass(frozen=True)
class Intensity:
    """Of the voxels inside the structures, each patient counting alike."""

    low: float
    """0.5 % are below."""
    high: float
    """99.5 % are below."""


@dataclass(frozen=True)
class Fingerprint:
    """What the scans of all sites have in common; axes D, H, W, or H, W for slices."""

    num_patients: int
    size: tuple[float, ...]
    """Median voxels along each axis."""
    spacing_mm: tuple[float, ...] | None
    """Median; None where no site knows."""
    fine_spacing_mm: tuple[float, ...] | None
    """10 % of the patients have less along this axis."""
    intensity: Intensity | None
    """None where there are no masks."""

    @classmethod
    def of(cls, vector: Vector, *, num_axes: int = NUM_AXES) -> "Fingerprint":
        """Return what the summed `vector` says.

        Args:
            vector: (FINGERPRINT_SIZE,) of one site, or summed over sites.
            num_axes: 3, or 2 for slices.

        Raises:
            NoPatientsError: no cell is left from which a size or a spacing could be told.
        """
        counts = vector[1::TRIPLE]
        sizes = counts[_SIZE:_INTENSITY].reshape(NUM_AXES, SIZE_BINS.num)
        spacings = counts[_SPACING:_SIZE].reshape(NUM_AXES, SPACING_BINS.num)
        axes = range(NUM_AXES - num_axes, NUM_AXES)
        known = any(spacings[axis].sum() > 0 for axis in axes)
        for name, counts_AB in (("size", sizes), *([("spacing", spacings)] if known else [])):
            if not all(counts_AB[axis].sum() > 0 for axis in axes):
                raise NoPatientsError(
                    f"fingerprint: no site let out a count of each {name}; too few of a site's "
                    "patients are alike. More patients, or more sites, would do"
                )
        of_spacing = SPACING_BINS.quantile
        return cls(
            int(vector[0]),
            tuple(SIZE_BINS.quantile(sizes[axis], 0.5) for axis in axes),
            tuple(of_spacing(spacings[axis], 0.5) for axis in axes) if known else None,
            tuple(of_spacing(spacings[axis], 0.1) for axis in axes) if known else None,
            _intensity(vector),
        )


def cases_of_rows(
    arrays: Mapping[str, npt.NDArray[Any]], patient_id: npt.NDArray[np.int64]
) -> Iterator[Case]:
    """Yield a case per row with an image (`fedward.common.images.rows`).

    Sizes and spacings are those of the scan that it was cut from, where the arrays say so.

    Args:
        arrays: of a `Table`.
        patient_id: (N,) whose row it is.
    """
    for row in np.flatnonzero(arrays[HAS + IMAGE]):
        image, mask = arrays[IMAGE][row], arrays[MASK][row]
        size, spacing_mm = np.array(image.shape), arrays[SPACING_MM][row]
        if ORIGINAL_SIZE in arrays:
            size, spacing_mm = arrays[ORIGINAL_SIZE][row], arrays[ORIGINAL_SPACING_MM][row]
        size, spacing_mm = size[-image.ndim :], spacing_mm[-image.ndim :]
        is_known = bool(np.isfinite(spacing_mm).all())
        yield Case(
            int(patient_id[row]),
            tuple(map(int, size)),
            tuple(map(float, spacing_mm)) if is_known else None,
            image[(mask > 0) & arrays[HAS + MASK][row]],
        )


def local_fingerprint(cases: Iterable[Case]) -> Vector:
    """Return a site's vector: (FINGERPRINT_SIZE,), whose layout is at the top of this module.

    What is summed is rounded to binary fractions first, so that sums are exact in any order.

    Args:
        cases: of training patients; used one by one, so that a generator may load them.
    """
    found: dict[int | str, _Patient] = {}
    for case in cases:
        found.setdefault(case.patient, _Patient()).add(case)
    triples_TC = np.zeros((_NUM_TRIPLES, TRIPLE))
    for patient in found.values():
        patient.enter(triples_TC)
    return np.concatenate([[float(len(found))], triples_TC.ravel()])


@dataclass(repr=False)
class _Patient:
    """The cases of one patient; T triples, C = 3 figures of each."""

    sizes: list[tuple[int, ...]] = field(default_factory=list)
    spacings: list[tuple[float, ...]] = field(default_factory=list)
    num_voxels: int = 0
    histogram: Vector = field(default_factory=lambda: np.zeros(NUM_INTENSITIES))

    def add(self, case: Case) -> None:
        """Take in one more case."""
        self.sizes.append(case.size)
        if case.spacing_mm is not None and np.isfinite(case.spacing_mm).all():
            self.spacings.append(case.spacing_mm)
        if len(case.foreground):
            values = np.clip(case.foreground.astype(np.float64), LOWEST, HIGHEST)
            self.num_voxels += len(values)
            place = np.minimum((values - LOWEST) // WIDTH, NUM_INTENSITIES - 1)
            self.histogram += np.bincount(place.astype(np.int64), minlength=NUM_INTENSITIES)

    def enter(self, triples_TC: Vector) -> None:
        """Add this patient to the site's triples."""
        for start, bins, values in (
            (_SPACING, SPACING_BINS, self.spacings),
            (_SIZE, SIZE_BINS, self.sizes),
        ):
            for axis, median in _medians(values):
                triples_TC[start + axis * bins.num + bins.index_of(median), 0] += 1
        if self.num_voxels:
            share = np.round(self.histogram / self.num_voxels * SHARE_STEPS) / SHARE_STEPS
            triples_TC[_INTENSITY:, 0] += self.histogram > 0
            triples_TC[_INTENSITY:, 1] += share


def _medians(values: Sequence[Sequence[float]]) -> Iterator[tuple[int, float]]:
    """Yield axis and median; two axes are H and W."""
    if not values:
        return
    medians = np.median(np.array(values, dtype=np.float64), axis=0)
    first = NUM_AXES - len(medians)
    yield from ((first + place, float(median)) for place, median in enumerate(medians))


def _intensity(vector: Vector) -> Intensity | None:
    shares = vector[1:].reshape(_NUM_TRIPLES, TRIPLE)[_INTENSITY:, 1]
    if not shares.sum():
        return None
    reached = np.concatenate([[0.0], np.cumsum(shares)]) / shares.sum()
    edges = LOWEST + WIDTH * np.arange(NUM_INTENSITIES + 1)
    low, high = np.interp((0.005, 0.995), reached, edges)
    return Intensity(float(low), float(high))
