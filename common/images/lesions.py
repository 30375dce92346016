"""Connected parts of masks: lesions, and the two kidneys.

Voxels that touch with a face, an edge or a corner are connected: 26 neighbours, 8 within a slice.

Shapes: D, H, W as in `fedward.common.images.rows`; everything here takes (H, W) as well.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

MIN_IOU = 0.1
"""Overlap from which a predicted part counts as a lesion of the truth."""


@dataclass(frozen=True)
class LesionMatch:
    """How the lesions of a truth and of a prediction go together."""

    found: int
    """Lesions of the truth that some predicted part overlaps."""
    missed: int
    """Lesions of the truth that none does."""
    false: int
    """Predicted parts that overlap no lesion of the truth."""


def components(mask_DHW: Mask) -> tuple[Labels, int]:
    """Return (D, H, W) with 1, 2 ... per connected part and 0 elsewhere, and how many parts."""
    labels_DHW = np.zeros(mask_DHW.shape, dtype=np.int32)
    everywhere = np.ones((3,) * mask_DHW.ndim, dtype=bool)
    num_parts: int = ndimage.label(mask_DHW, structure=everywhere, output=labels_DHW)
    return labels_DHW, num_parts


def match_lesions(truth_DHW: Mask, predicted_DHW: Mask, *, min_iou: float = MIN_IOU) -> LesionMatch:
    """Return how many lesions are found, missed and made up.

    A part of the truth and a part of the prediction belong together where their intersection over
    union is at least `min_iou`; at 0, where they share a voxel. One predicted part may find
    several lesions, and several parts the same one. So a prediction that is far too large for a
    lesion is both a miss and a false part (ours: a rule on single voxels would reward a mask that
    covers everything).
    """
    truth, num_truth = components(truth_DHW)
    predicted, num_predicted = components(predicted_DHW)
    code = truth.ravel().astype(np.int64) * (num_predicted + 1) + predicted.ravel()
    overlap = np.bincount(code, minlength=(num_truth + 1) * (num_predicted + 1))
    overlap_TP = overlap.reshape(num_truth + 1, num_predicted + 1)
    size_T, size_P = overlap_TP.sum(axis=1)[1:], overlap_TP.sum(axis=0)[1:]
    shared_TP = overlap_TP[1:, 1:]
    union_TP = size_T[:, None] + size_P[None, :] - shared_TP
    together_TP = (shared_TP > 0) & (shared_TP >= min_iou * union_TP)
    found = int(together_TP.any(axis=1).sum())
    return LesionMatch(found, num_truth - found, int((~together_TP.any(axis=0)).sum()))


def two_largest_components(mask_DHW: Mask) -> Mask:
    """Return (D, H, W) with only the two largest connected parts: the kidneys."""
    labels, num_parts = components(mask_DHW)
    if num_parts <= 2:
        return mask_DHW.copy()
    size = np.bincount(labels.ravel(), minlength=num_parts + 1)
    size[0] = 0
    return np.isin(labels, np.argsort(-size, kind="stable")[:2])
