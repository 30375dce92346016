"""One patient's phantom: an image in HU whose truth is known, and the clinical table's row.

Legend: D depth (slices, from the feet to the head), H height (from front to back), W width (from
the patient's right to the left), as in `fedward.common.images.rows`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedward.synth.phantom.scanner import Scanner

Kind = Literal["stones", "nodules", "abdomen"]
LabelsFrom = Literal["both", "ct", "ehr", "none"]
Side = Literal["left", "right", "middle"]


@dataclass(frozen=True)
class CaseSpec:
    """What kind of patient is wanted."""

    kind: Kind
    """Region round a urinary stone, region round a lung nodule, or a whole abdomen."""
    scanner: Scanner
    """The site's; gives the spacing of the voxels (see `scanner_of`)."""
    size_mm: int = 64
    """Extent of a region along each side; an abdomen is as large as its body."""
    labels_from: LabelsFrom = "both"
    """What the label depends on."""
    missing: float = 0.1
    """Share of the clinical values that are left out, 0 to 1 (never the label)."""


@dataclass(frozen=True, repr=False)
class Lesion:
    """The truth about one stone or nodule, before scanner and voxels."""

    structure: str
    """"stone" or "nodule"."""
    composition: str
    """"uric-acid", "cystine" ... of a stone; "solid", "part-solid", "ground-glass" of a nodule."""
    side: Side
    """The patient's; a bladder's or urethra's stone is in the middle."""
    place: str
    """Where: "renal-pelvis", "lower-calyx", "ureter", "bladder", "urethra", "lung" ..."""
    diameter_mm: float
    """Longest distance between two points of it (max Feret)."""
    volume_mm3: float
    mean_hu: float
    """Mean over the lesion of the true values, without noise, blur and the scanner's bias."""
    sd_hu: float
    """Standard deviation of the same: its texture."""
    centre_mm: tuple[float, float, float]
    """LPS x, y, z of its centre of mass, in the frame of `Phantom.origin_mm`."""


@dataclass(frozen=True, repr=False)
class Phantom:
    """One patient."""

    voxels_DHW: NDArray[np.int16]
    """HU, at least -1024; index (d, h, w) grows towards superior, posterior, left."""
    mask_DHW: NDArray[np.uint8]
    """0, or k for the k-th of `structures`: voxels that are at least half inside."""
    spacing_mm: tuple[float, float, float]
    """D, H, W: (scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm)."""
    origin_mm: tuple[float, float, float]
    """LPS x, y, z of the centre of voxel (0, 0, 0)."""
    structures: tuple[str, ...]
    """stones: ("stone",); abdomen: ("kidney", "stone"); nodules: ("nodule",)."""
    clinical: Mapping[str, float | str | None]
    """The columns of `clinical_columns(kind)` in their order; None = missing. Not the label."""
    label: int
    """1: infectious stone (column `infection`), invasive nodule (column `invasive`); else 0."""
    lesions: tuple[Lesion, ...]
    """All stones or nodules; the first is the one that the region is round."""
