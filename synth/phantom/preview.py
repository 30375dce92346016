"""A picture of a cohort: the first patients of each site, with the outlines of what masks hold.

Legend: D slices from feet to head, H rows from front to back, W columns from the patient's right to
the left; Y, X are the rows and columns of a picture.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from fedward.common.config.image import PhantomConfig
from fedward.synth.phantom.case import Kind, Phantom
from fedward.synth.phantom.cohort import phantoms_of
from fedward.synth.phantom.scanner import scanner_of
from fedward.synth.sheet import new_sheet, outline, write_sheet

_WINDOW_HU: dict[Kind, tuple[int, int]] = {
    "stones": (-200, 1000),
    "abdomen": (-200, 600),
    "nodules": (-1150, 350),
}
_PER_SITE: dict[Kind, int] = {"stones": 6, "abdomen": 2, "nodules": 6}


def write_preview(config: PhantomConfig, path: Path) -> None:
    """Write a PNG with a row per site, a picture per patient, in the plane of the first lesion.

    The patients are made anew, so the cohort's files need not be there.

    Raises:
        StorageError: the file cannot be written.
    """
    columns = min(_PER_SITE[config.kind], max(config.patients.values()))
    figure, axes_SP = new_sheet(len(config.patients), columns)
    for index, site in enumerate(config.patients):
        scanner = scanner_of(index)
        patients = phantoms_of(config, site, most=columns)
        for axes, (_, phantom) in zip(axes_SP[index], patients, strict=False):
            _show(axes, config.kind, phantom)
        title = f"{site}: {scanner.slice_mm:g} mm, {scanner.kernel}"
        axes_SP[index][0].set_title(title, loc="left", fontsize=8)
    write_sheet(figure, path)


def _show(axes: Axes, kind: Kind, phantom: Phantom) -> None:
    """Draw an axial plane; of an abdomen, a coronal one, which has more of its organs."""
    depth_mm, height_mm, width_mm = phantom.spacing_mm
    axis, row_mm = (1, depth_mm) if kind == "abdomen" else (0, height_mm)
    index = _plane(phantom, axis)
    low, high = _WINDOW_HU[kind]
    picture_YX = phantom.voxels_DHW.take(index, axis)
    axes.imshow(picture_YX, cmap="gray", vmin=low, vmax=high, aspect=row_mm / width_mm)
    mask_YX = phantom.mask_DHW.take(index, axis)
    outline(axes, np.asarray(mask_YX))
    if kind == "abdomen":
        axes.invert_yaxis()  # the head on top
    if phantom.lesions:
        lesion = phantom.lesions[0]
        text = f"{lesion.composition}\n{lesion.diameter_mm:.0f} mm, label {phantom.label}"
        axes.text(0.03, 0.03, text, transform=axes.transAxes, color="white", fontsize=5)


def _plane(phantom: Phantom, axis: int) -> int:
    """Return the index along an axis of the plane through the first lesion, or else the middle."""
    length: int = phantom.voxels_DHW.shape[axis]
    if not phantom.lesions:
        return length // 2
    coordinate = 2 - axis  # x, y, z of D, H, W
    distance_mm = phantom.lesions[0].centre_mm[coordinate] - phantom.origin_mm[coordinate]
    return min(max(round(distance_mm / phantom.spacing_mm[axis]), 0), length - 1)
