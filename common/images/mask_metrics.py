"""Figures of masks: per row first, then per site with an interval over its patients.

| figure | of a row | of a site |
|---|---|---|
| dice, iou | overlap with the truth, 0 to 1 | mean over patients of their rows' mean; Student's t |
| hd95_mm | 95 % Hausdorff distance of the surfaces | the same |
| hd95_px | the same in voxels, where the spacing is unknown | the same |
| lesion_sensitivity | lesions that are found | share over all lesions; Wilson's interval |
| false_lesions | parts that are no lesion | mean number per row; Poisson's interval |
| num_truth_empty | rows without truth: no dice, iou, hd95 | their number |
| num_prediction_empty | rows with truth and nothing predicted | their number |

Where the truth is empty, overlap and distance are not defined and the row counts in neither, but
what is predicted there counts as false lesions. Where only the prediction is empty, dice and iou
are 0 and the distance is the diagonal of the image, the worst that there can be.

Rows of a patient (slices, lesions) are no independent draws. Means take one value per patient; the
two lesion figures divide n by the design effect of the patients as clusters: Rao and Scott 1992,
Biometrics 48:577-585. All intervals are closed forms, at 95 %.

Shapes: B rows, D depth, H height, W width; slices have no D. N rows of a site, P patients.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import gammaincinv

from fedward.common.images.lesions import MIN_IOU, match_lesions
from fedward.common.intervals import mean_interval, wilson
from fedward.common.task import Metric

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ROW_FIGURES = (
    "dice",
    "iou",
    "hd95_mm",
    "hd95_px",
    "voxels_truth",
    "voxels_predicted",
    "lesions_found",
    "lesions_missed",
    "lesions_false",
)
MASK_METRICS = (
    "dice",
    "iou",
    "hd95_mm",
    "hd95_px",
    "lesion_sensitivity",
    "false_lesions",
    "num_truth_empty",
    "num_prediction_empty",
)
PERCENTILE = 95


def is_mask_figure(name: str) -> bool:
    """Return whether a figure is one of masks, also of a named structure (`dice.kidney`)."""
    return name.partition(".")[0] in MASK_METRICS


def row_figures(
    truth_BDHW: npt.NDArray[np.generic],
    predicted_BDHW: npt.NDArray[np.generic],
    spacing_mm_B3: npt.NDArray[np.floating] | None = None,
    *,
    min_iou: float = MIN_IOU,
) -> dict[str, Floats]:
    """Return (B,) float64 for each of `ROW_FIGURES`; NaN where a figure is not defined.

    Rows do not see each other, so chunks of a site can be put through one after the other and
    their figures put behind each other.

    Args:
        truth_BDHW: (B, D, H, W) or (B, H, W) of one structure; what is not 0 belongs to it.
        predicted_BDHW: the same form.
        spacing_mm_B3: (B, 3) size of a voxel along D, H, W, or (B, 2) along H, W; NaN where it is
            not known. Slices use the last two. Absent: not known for any row.
        min_iou: see `match_lesions`.

    Raises:
        ValueError: the forms differ.
    """
    truth_BDHW, predicted_BDHW = np.asarray(truth_BDHW) != 0, np.asarray(predicted_BDHW) != 0
    if truth_BDHW.shape != predicted_BDHW.shape or truth_BDHW.ndim < 3:
        raise ValueError(f"masks {truth_BDHW.shape} and {predicted_BDHW.shape} must fit together")
    rows, dims = len(truth_BDHW), truth_BDHW.ndim - 1
    if spacing_mm_B3 is None:
        spacing_mm_B3 = np.full((rows, dims), np.nan)
    spacing_mm = np.asarray(spacing_mm_B3, dtype=np.float64)[:, -dims:]
    if spacing_mm.shape != (rows, dims):
        raise ValueError(f"spacing {spacing_mm.shape} does not fit masks {truth_BDHW.shape}")
    table_BF = np.full((rows, len(ROW_FIGURES)), np.nan)
    for row in range(rows):
        table_BF[row] = _row(truth_BDHW[row], predicted_BDHW[row], spacing_mm[row], min_iou)
    return {name: table_BF[:, place].copy() for place, name in enumerate(ROW_FIGURES)}


def mask_metrics(
    figures: Mapping[str, Floats], patient_id: npt.NDArray[np.generic]
) -> dict[str, Metric]:
    """Return `MASK_METRICS` of a site, n = patients.

    Of `hd95_mm` and `hd95_px` only those are there that some row of the site has.

    Args:
        figures: from `row_figures`, (N,) each.
        patient_id: (N,) whose row it is.

    Raises:
        ValueError: the lengths differ.
    """
    if any(len(figures[name]) != len(patient_id) for name in ROW_FIGURES):
        raise ValueError(f"{len(patient_id)} patient ids do not fit the figures of masks")
    _, who = np.unique(patient_id, return_inverse=True)
    means = {name: _patient_mean(figures[name], who) for name in MASK_METRICS[:4]}
    # Without any truth one of the two distances still says why there is none.
    units = [name for name in ("hd95_mm", "hd95_px") if means[name].value is not None]
    return {
        "dice": _within(means["dice"], 1.0),
        "iou": _within(means["iou"], 1.0),
        **{name: _within(means[name], math.inf) for name in units or ["hd95_mm"]},
        "lesion_sensitivity": _sensitivity(figures, who),
        "false_lesions": _false_lesions(figures["lesions_false"], who),
        **_empty_cases(figures, who),
    }


def surface_distance(truth_DHW: Mask, predicted_DHW: Mask, spacing_mm: Floats) -> float:
    """Return the 95 % Hausdorff distance of two masks, neither of which is empty.

    That is the larger of the two directed 95th percentiles of the distance from a surface voxel
    of one mask to the nearest of the other, in the unit of the spacing. Surface voxels have a
    neighbour across a face that is outside, or the image's border. The figure is MONAI's
    `compute_hausdorff_distance(percentile=95)`, which warns of a deprecation at every call.
    """
    box = ndimage.find_objects((truth_DHW | predicted_DHW).astype(np.int8))[0]
    surfaces = [
        mask & ~ndimage.binary_erosion(mask) for mask in (truth_DHW[box], predicted_DHW[box])
    ]
    far = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    directed = [np.percentile(far[1 - i][surfaces[i]], PERCENTILE) for i in (0, 1)]
    return float(max(directed))


def _row(truth_DHW: Mask, predicted_DHW: Mask, spacing_mm: Floats, min_iou: float) -> list[float]:
    """Return `ROW_FIGURES` in their order."""
    num_truth, num_predicted = int(truth_DHW.sum()), int(predicted_DHW.sum())
    lesions = match_lesions(truth_DHW, predicted_DHW, min_iou=min_iou)
    counts = [num_truth, num_predicted, lesions.found, lesions.missed, lesions.false]
    if num_truth == 0:
        return [math.nan] * 4 + [float(count) for count in counts]
    shared = int((truth_DHW & predicted_DHW).sum())
    known = bool(np.isfinite(spacing_mm).all() and (spacing_mm > 0).all())
    unit = spacing_mm if known else np.ones(truth_DHW.ndim)
    if num_predicted:
        distance = surface_distance(truth_DHW, predicted_DHW, unit)
    else:
        distance = float(np.linalg.norm(np.array(truth_DHW.shape) * unit))
    overlap = [2 * shared / (num_truth + num_predicted)]
    overlap += [shared / (num_truth + num_predicted - shared)]
    distances = [distance, math.nan] if known else [math.nan, distance]
    return overlap + distances + [float(count) for count in counts]


def _patient_mean(values_N: Floats, who_N: npt.NDArray[np.intp]) -> Metric:
    """Return the mean over patients with a defined row of the mean over their defined rows."""
    known = np.isfinite(values_N)
    if not known.any():
        return Metric(None, n=0, reason="no row has a mask in truth" if len(who_N) else "no rows")
    rows_P = np.bincount(who_N[known])
    sums_P = np.bincount(who_N[known], weights=values_N[known])
    return mean_interval((sums_P[rows_P > 0] / rows_P[rows_P > 0]).tolist())


def _within(metric: Metric, highest: float) -> Metric:
    """Return the metric with its interval cut to [0, highest]."""
    if metric.low is None or metric.high is None:
        return metric
    return Metric(metric.value, max(0.0, metric.low), min(highest, metric.high), n=metric.n)


def _sensitivity(figures: Mapping[str, Floats], who_N: npt.NDArray[np.intp]) -> Metric:
    """Return found lesions over all lesions; Wilson's interval with n / design effect."""
    found_P = np.bincount(who_N, weights=figures["lesions_found"])
    lesions_P = found_P + np.bincount(who_N, weights=figures["lesions_missed"])
    found_P, lesions_P = found_P[lesions_P > 0], lesions_P[lesions_P > 0]
    if len(lesions_P) == 0:
        return Metric(None, n=0, reason="no lesion in truth")
    total = float(lesions_P.sum())
    share = float(found_P.sum()) / total
    effect = _design_effect(found_P, lesions_P, share * (1 - share) / total)
    low, high = wilson(share * total / effect, total / effect)
    return Metric(share, low, high, n=len(lesions_P))


def _false_lesions(false_N: Floats, who_N: npt.NDArray[np.intp]) -> Metric:
    """Return false lesions per row; exact Poisson limits with rows / design effect.

    Source: Garwood 1936, Biometrika 28:437-442.
    """
    if len(who_N) == 0:
        return Metric(None, n=0, reason="no rows")
    rows_P = np.bincount(who_N).astype(np.float64)
    false_P = np.bincount(who_N, weights=false_N)
    rows = float(rows_P.sum())
    rate = float(false_P.sum()) / rows
    exposure = rows / _design_effect(false_P, rows_P, rate / rows)
    count = rate * exposure
    low = float(gammaincinv(count, 0.025)) / exposure if count > 0 else 0.0
    return Metric(rate, low, float(gammaincinv(count + 1, 0.975)) / exposure, n=len(rows_P))


def _design_effect(
    hits_P: npt.NDArray[Any], size_P: npt.NDArray[Any], simple_variance: float
) -> float:
    """Return how many times the ratio's variance is that of independent units, at least 1.

    `hits_P.sum() / size_P.sum()` is the ratio. Where nothing varies (none found, or all) or there
    is one patient, the mean size of a cluster stands in: each patient then counts once.
    """
    num_patients = len(size_P)
    mean_size = float(size_P.mean())
    if simple_variance == 0 or num_patients == 1:
        return max(1.0, mean_size)
    ratio = float(hits_P.sum() / size_P.sum())
    residual = float(np.sum((hits_P - ratio * size_P) ** 2)) / float(size_P.sum()) ** 2
    return max(1.0, residual * num_patients / (num_patients - 1) / simple_variance)


def _empty_cases(figures: Mapping[str, Floats], who_N: npt.NDArray[np.intp]) -> dict[str, Metric]:
    num_patients = len(np.unique(who_N))
    no_truth = figures["voxels_truth"] == 0
    nothing = ~no_truth & (figures["voxels_predicted"] == 0)
    return {
        "num_truth_empty": Metric(float(no_truth.sum()), n=num_patients),
        "num_prediction_empty": Metric(float(nothing.sum()), n=num_patients),
    }
