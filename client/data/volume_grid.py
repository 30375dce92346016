"""Where the voxels of a stored array lie, and how they come onto an axis-aligned volume.

Legend: X is x, y, z in millimetres of LPS; A, B, C (together I) are the axes of an array as it is
stored; D, H, W those of a volume. A matrix `_XI` holds in column i the step of index i.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.optimize import linear_sum_assignment

from fedward.client.data.volumes import MAX_VOXELS, Volume
from fedward.common.errors import SiteDataError

Floats = NDArray[np.float64]
# Half a voxel at the far end of an axis: less than that is no tilt, but the rounding of a header.
MAX_DRIFT_VOXELS = 0.5
MIN_SHARE_INSIDE = 0.5
MAX_CHECKED = 1_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """Where voxel (a, b, c) of an array lies: origin + matrix @ (a, b, c)."""

    matrix_XI: Floats
    origin_X: Floats
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not np.isfinite(self.matrix_XI).all() or abs(np.linalg.det(self.matrix_XI)) < 1e-9:
            raise SiteDataError("the orientation in its header makes no grid")
        if min(self.shape) < 1 or np.prod(self.shape, dtype=np.float64) > MAX_VOXELS:
            raise SiteDataError(f"it has no voxels, or more than {MAX_VOXELS:,}")

    @property
    def spacing_I(self) -> Floats:
        """Distance in mm of neighbours along each index."""
        return np.asarray(np.linalg.norm(self.matrix_XI, axis=0))

    def axes(self) -> tuple[int, int, int]:
        """Return which index runs most along x, y and z."""
        share_XI = np.abs(self.matrix_XI) / self.spacing_I
        _, axes = linear_sum_assignment(-share_XI)
        return int(axes[0]), int(axes[1]), int(axes[2])

    def is_aligned(self) -> bool:
        """Return whether each index runs along one axis of the body, to half a voxel."""
        axes = self.axes()
        drift_XI = np.abs(self.matrix_XI) * (np.array(self.shape) - 1)
        drift_XI[range(3), axes] = 0
        return bool((drift_XI.sum(axis=1) <= MAX_DRIFT_VOXELS * self.spacing_I[list(axes)]).all())


def canonical(voxels_ABC: NDArray[np.int16], grid: Grid, *, fill: float) -> Volume:
    """Return the voxels as an axis-aligned volume: turned and mirrored, or resampled if oblique.

    Args:
        voxels_ABC: as stored.
        grid: where they lie.
        fill: stands outside the stored voxels where those are oblique (linear interpolation).

    Raises:
        SiteDataError: the volume round an oblique scan would be too large.
    """
    if not grid.is_aligned():
        return _straightened(voxels_ABC, grid, fill)
    axes = grid.axes()
    origin_X = grid.origin_X.copy()
    flipped = []
    for x, axis in enumerate(axes):
        if grid.matrix_XI[x, axis] < 0:
            origin_X += grid.matrix_XI[:, axis] * (grid.shape[axis] - 1)
            flipped.append(2 - x)  # x, y, z lie along W, H, D
    voxels_DHW = np.flip(voxels_ABC.transpose(axes[::-1]), axis=tuple(flipped))
    spacing = grid.spacing_I[list(axes[::-1])]
    return Volume(np.ascontiguousarray(voxels_DHW), _triple(spacing), _triple(origin_X))


def _straightened(voxels_ABC: NDArray[np.int16], grid: Grid, fill: float) -> Volume:
    corners_IN = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1)
    corners_XN = grid.matrix_XI @ corners_IN + grid.origin_X[:, None]
    low, high = corners_XN.min(axis=1), corners_XN.max(axis=1)
    spacing_X = grid.spacing_I[list(grid.axes())]
    shape_X = np.ceil((high - low) / spacing_X - 1e-6).astype(int) + 1
    if np.prod(shape_X, dtype=np.float64) > MAX_VOXELS:
        raise SiteDataError(f"it is oblique, and upright has more than {MAX_VOXELS:,} voxels")
    to_index_IX = np.linalg.inv(grid.matrix_XI)
    voxels_DHW = affine_transform(
        voxels_ABC,
        to_index_IX @ _steps(_triple(spacing_X[::-1])),
        to_index_IX @ (low - grid.origin_X),
        output_shape=tuple(shape_X[::-1]),
        order=1,
        cval=fill,
    )
    return Volume(voxels_DHW, _triple(spacing_X[::-1]), _triple(low))


def labels_on(labels_ABC: NDArray[np.uint8], grid: Grid, volume: Volume) -> NDArray[np.uint8]:
    """Return labels on the grid of a volume, by the nearest voxel; 0 outside the labels' grid.

    Raises:
        SiteDataError: most of what is labelled lies outside the volume.
    """
    _check_inside(labels_ABC, grid, volume)
    to_index_IX = np.linalg.inv(grid.matrix_XI)
    matrix_ID = to_index_IX @ _steps(volume.spacing_mm)
    offset_I = to_index_IX @ (np.array(volume.origin_mm) - grid.origin_X)
    shape = volume.voxels_DHW.shape
    _, axes = linear_sum_assignment(-np.abs(matrix_ID))
    drift_ID = np.abs(matrix_ID) * (np.array(shape) - 1)
    drift_ID[range(3), axes] = 0
    if (drift_ID.sum(axis=1) > MAX_DRIFT_VOXELS).any():
        labels = affine_transform(labels_ABC, matrix_ID, offset_I, output_shape=shape, order=0)
        return np.asarray(labels, dtype=np.uint8)
    # Both grids run along the same axes: an index along each says it all, and is far faster.
    labels_DHW = labels_ABC.transpose(np.argsort(axes))
    for axis, stored in enumerate(np.argsort(axes)):
        steps = matrix_ID[stored, axis] * np.arange(shape[axis])
        index = np.rint(steps + offset_I[stored]).astype(int)
        outside = (index < 0) | (index >= labels_DHW.shape[axis])
        labels_DHW = labels_DHW.take(np.where(outside, 0, index), axis=axis)
        np.moveaxis(labels_DHW, axis, 0)[outside] = 0
    return np.ascontiguousarray(labels_DHW)


def _check_inside(labels_ABC: NDArray[np.uint8], grid: Grid, volume: Volume) -> None:
    marked = np.flatnonzero(labels_ABC)
    if not marked.size:
        return
    # A share is enough: the places of every voxel of a large organ take gigabytes.
    some = marked[:: marked.size // MAX_CHECKED + 1]
    places_IN = np.array(np.unravel_index(some, labels_ABC.shape))
    places_XN = grid.matrix_XI @ places_IN + grid.origin_X[:, None]
    to_voxel_DX = np.linalg.inv(_steps(volume.spacing_mm))
    voxels_DN = to_voxel_DX @ (places_XN - np.array(volume.origin_mm)[:, None])
    last_D = np.array(volume.voxels_DHW.shape)[:, None] - 0.5
    share = ((voxels_DN > -0.5) & (voxels_DN < last_D)).all(axis=0).mean()
    if share < MIN_SHARE_INSIDE:
        raise SiteDataError(
            f"{1 - share:.0%} of what the mask marks lies outside the image; is it of another scan?"
        )


def _steps(spacing_mm: tuple[float, float, float]) -> Floats:
    """Return the (X, D) matrix of a volume: D, H, W run along z, y, x."""
    return np.fliplr(np.diag(spacing_mm[::-1]))


def _triple(values: Floats) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 6) for value in values)  # a nanometre is rounding
    return x, y, z
