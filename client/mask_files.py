"""Masks back on the grid that a scan was stored on, and as NIfTI.

Legend: X is x, y, z in millimetres of LPS; A, B, C are the axes as the scan is stored (slice, row,
column for DICOM); D, H, W those of a volume.
"""

import gzip

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform

from fedward.client.data.nifti_volume import RAS_TO_LPS, nifti_grid
from fedward.client.data.volume_grid import Grid
from fedward.client.data.volumes import Series, Volume
from fedward.common.errors import SiteDataError

Labels = npt.NDArray[np.uint8]


def stored_grid(series: Series) -> Grid:
    """Return the grid that a series is stored on.

    Raises:
        SiteDataError: the series was not made by `scan_folder`, or its file has no orientation.
    """
    if series.kind == "dicom":
        if series.stack is None:
            raise SiteDataError("the series was not made by scan_folder")
        return series.stack.grid
    return nifti_grid(series.files[0])


def on_stored_grid(labels_DHW: Labels, volume: Volume, grid: Grid) -> Labels:
    """Return the (A, B, C) labels on the grid that the volume was stored on.

    A volume that was only turned is turned back; that of an oblique scan is looked up at the
    nearest voxel.

    Args:
        labels_DHW: on the grid of `volume`.
        volume: as `load_volume` returned it.
        grid: from `stored_grid`.
    """
    if grid.is_aligned():
        axes = grid.axes()
        flipped = tuple(2 - x for x, axis in enumerate(axes) if grid.matrix_XI[x, axis] < 0)
        turned = np.flip(labels_DHW, axis=flipped).transpose(np.argsort(axes[::-1]))
        return np.ascontiguousarray(turned)
    to_voxel_DX = np.linalg.inv(np.fliplr(np.diag(volume.spacing_mm[::-1])))
    labels_ABC = affine_transform(
        labels_DHW,
        to_voxel_DX @ grid.matrix_XI,
        to_voxel_DX @ (grid.origin_X - np.array(volume.origin_mm)),
        output_shape=grid.shape,
        order=0,
    )
    return np.asarray(labels_ABC, dtype=np.uint8)


def nifti_bytes(labels_ABC: Labels, grid: Grid, *, is_dicom: bool) -> bytes:
    """Return a `.nii.gz` file of the labels that lies where the scan does.

    Args:
        labels_ABC: on the grid of the scan.
        grid: from `stored_grid`.
        is_dicom: then the file's axes are column, row, slice, as converters write them; else they
            are those of the scan's own file.
    """
    matrix_XA, labels = grid.matrix_XI, labels_ABC
    if is_dicom:
        matrix_XA, labels = matrix_XA[:, ::-1], labels.transpose()
    affine = np.eye(4)
    affine[:3] = RAS_TO_LPS[:, None] * np.column_stack([matrix_XA, grid.origin_X])
    image = nib.nifti1.Nifti1Image(labels, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.set_sform(affine, code=1)  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
