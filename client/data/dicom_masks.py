"""RTSTRUCT and SEG objects as labels on the grid of a volume.

Legend: X is x, y, z in millimetres of LPS; P points; K slices, R rows, C columns as stored; S
segments.
"""

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from skimage.draw import polygon

from fedward.client.data.damaged import damage_as
from fedward.client.data.dicom_header import text
from fedward.client.data.volume_grid import Grid, labels_on
from fedward.client.data.volumes import MaskFile, Series, Volume
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import ImageSchema

MAX_MASK_BYTES = 512 * 2**20
MAX_OFF_PLANE = 0.5
SAME_PLANE = 0.01
"""Of a slice: contours that are less apart lie in one plane."""


def load_rtstruct(
    mask: MaskFile, series: Series, volume: Volume, schema: ImageSchema
) -> NDArray[np.uint8]:
    """Return the (D, H, W) labels of contours: voxels whose middle lies inside.

    Contours are filled on the slices as they were scanned, by the even-odd rule: one inside
    another is a hole. Those of several planes within a slice, as of thinner slices, add up.

    Raises:
        SiteDataError: unreadable, of another frame, or without the schema's structures.
    """
    dataset = _read(mask)
    _check_frame(mask, series, _frames_of_contours(dataset))
    grid = _grid_of(series, volume)
    wanted = _wanted(_regions(dataset), schema)
    contours = {
        text(item, "ReferencedROINumber"): item.get("ContourSequence") or ()
        for item in dataset.get("ROIContourSequence") or ()
    }
    labels_KRC = np.zeros(grid.shape, dtype=np.uint8)
    num_contours = num_placed = 0
    for number, value in wanted:
        points = [
            np.array(item.ContourData, dtype=np.float64).reshape(-1, 3).T
            for item in contours.get(number, ())
        ]
        outlines = [points_XP for points_XP in points if points_XP.shape[1] >= 3]
        placed = _on_slices(outlines, grid)
        num_contours += len(outlines)
        num_placed += len(placed)
        labels_KRC[_inside(placed, grid)] = value
    if num_contours and not num_placed:
        raise SiteDataError("none of its contours lies on a slice of the image")
    return labels_on(labels_KRC, grid, volume)


def load_seg(
    mask: MaskFile, series: Series, volume: Volume, schema: ImageSchema
) -> NDArray[np.uint8]:
    """Return the (D, H, W) labels of a segmentation object; fractions of a half and more count.

    Raises:
        SiteDataError: unreadable, of another frame, or without the schema's structures.
    """
    dataset = _read(mask)
    _check_frame(mask, series, {text(dataset, "FrameOfReferenceUID")})
    wanted = _wanted(_segments(dataset), schema)
    numbers = [int(number) for number, _ in wanted]
    with damage_as("its segmentation cannot be decoded"):
        parts_KRCS, grid = _segments_of(dataset, series, numbers)
    labels_KRC = np.zeros(grid.shape, dtype=np.uint8)
    for part, (_, value) in enumerate(wanted):
        labels_KRC[parts_KRCS[..., part] >= 0.5] = value
    return labels_on(labels_KRC, grid, volume)


def _segments_of(dataset: Dataset, series: Series, numbers: list[int]) -> tuple[NDArray[Any], Grid]:
    """Return a segmentation's frames as stacked, and where they lie."""
    from highdicom.seg import Segmentation

    segmentation = Segmentation.from_dataset(dataset, copy=False)
    try:
        stored = segmentation.get_volume(segment_numbers=numbers)
    except (RuntimeError, ValueError):
        # Slices of a tilted gantry make no volume of right angles: taken one by one.
        if series.stack is None:
            raise
        slices = series.stack.slices
        frames_NRCS = segmentation.get_pixels_by_source_instance(
            [one.sop_uid for one in slices],
            segment_numbers=numbers,
            ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )
        grid = series.stack.grid
        parts_KRCS = np.zeros((*grid.shape, len(numbers)), dtype=frames_NRCS.dtype)
        parts_KRCS[list(series.stack.slots)] = frames_NRCS
        return parts_KRCS, grid
    affine = stored.affine
    return stored.array, Grid(affine[:3, :3], affine[:3, 3], stored.array.shape[:3])


def names_in(mask: MaskFile) -> tuple[str, ...]:
    """Return the names of the regions or segments in a file.

    Raises:
        SiteDataError: it cannot be read.
    """
    dataset = _read(mask)
    return tuple((_regions(dataset) if mask.kind == "rtstruct" else _segments(dataset)).values())


def _read(mask: MaskFile) -> Dataset:
    num_bytes = mask.path.stat().st_size
    if num_bytes > MAX_MASK_BYTES:
        raise SiteDataError(f"a mask of more than {MAX_MASK_BYTES >> 20} MiB")
    return dcmread(mask.path, force=True)


def _regions(dataset: Dataset) -> dict[str, str]:
    rois = dataset.get("StructureSetROISequence") or ()
    return {text(roi, "ROINumber"): text(roi, "ROIName") for roi in rois}


def _segments(dataset: Dataset) -> dict[str, str]:
    segments = dataset.get("SegmentSequence") or ()
    return {text(part, "SegmentNumber"): text(part, "SegmentLabel") for part in segments}


def _wanted(names: dict[str, str], schema: ImageSchema) -> list[tuple[str, int]]:
    """Return the numbers of what the schema names, with their labels in the schema's order.

    Raises:
        SiteDataError: there is none. The text leaves out the names: people write them.
    """
    wanted = []
    for value, structure in enumerate(schema.structures, 1):
        spellings = {
            name.strip().casefold() for name in (structure, *schema.aliases.get(structure, ()))
        }
        found = [number for number, name in names.items() if name.casefold() in spellings]
        wanted += [(number, value) for number in found]
    if not wanted:
        raise SiteDataError(
            f"none of the {len(names)} structures of its mask is called "
            f"{' or '.join(schema.structures)}; name them in the schema under image.aliases"
        )
    return wanted


def _frames_of_contours(dataset: Dataset) -> set[str]:
    frames = {
        text(frame, "FrameOfReferenceUID")
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ()
    }
    rois = dataset.get("StructureSetROISequence") or ()
    return frames | {text(roi, "ReferencedFrameOfReferenceUID") for roi in rois}


def _check_frame(mask: MaskFile, series: Series, frames: set[str]) -> None:
    """Refuse a mask whose positions are of another frame of reference than the image's."""
    frames = frames - {""}
    if series.series_uid and series.series_uid in mask.refers_to:
        return
    if frames and series.frame_uid and series.frame_uid not in frames:
        raise SiteDataError("its mask has another frame of reference than the image")


def _grid_of(series: Series, volume: Volume) -> Grid:
    if series.stack is not None:
        return series.stack.grid
    depth, height, width = volume.voxels_DHW.shape
    matrix = np.fliplr(np.diag(volume.spacing_mm[::-1]))
    return Grid(matrix, np.array(volume.origin_mm), (depth, height, width))


def _on_slices(
    outlines: list[NDArray[np.float64]], grid: Grid
) -> list[tuple[float, NDArray[np.float64]]]:
    """Return the contours that lie on a slice: place along the slices, and (I, P) indices."""
    to_index_IX = np.linalg.inv(grid.matrix_XI)
    placed = []
    for points_XP in outlines:
        index_IP = to_index_IX @ (points_XP - grid.origin_X[:, None])
        place = float(np.median(index_IP[0]))
        off_plane = np.abs(index_IP[0] - round(place)).max()
        if off_plane <= MAX_OFF_PLANE and 0 <= round(place) < grid.shape[0]:
            placed.append((place, index_IP))
    return sorted(placed, key=lambda one: one[0])


def _inside(placed: list[tuple[float, NDArray[np.float64]]], grid: Grid) -> NDArray[np.bool_]:
    """Return the (K, R, C) voxels inside contours, which come in the order of their places."""
    is_inside_KRC = np.zeros(grid.shape, dtype=np.bool_)
    steps = np.diff([place for place, _ in placed], prepend=-np.inf)
    planes = np.cumsum(steps > SAME_PLANE).tolist()
    slots = [round(place) for place, _ in placed]
    outlines = (index_IP for _, index_IP in placed)
    for (slot, _), plane in groupby(zip(slots, planes, outlines, strict=True), lambda one: one[:2]):
        plane_RC = np.zeros(grid.shape[1:], dtype=np.bool_)
        for _, _, index_IP in plane:
            rows, columns = polygon(  # type: ignore[no-untyped-call] # skimage has no types
                index_IP[1], index_IP[2], shape=grid.shape[1:]
            )
            plane_RC[rows, columns] ^= True
        is_inside_KRC[slot] |= plane_RC
    return is_inside_KRC
