"""Volumes become the rows of a table: resampled, cut round lesions or into slices, padded with air.

Legend: N rows of one scan; D, H, W as in `fedward.common.images.rows`; S stands for the axes of a
row: D, H, W, or H, W for axial slices. Pure functions of arrays: nothing here knows of files.

Resampling is linear, over the same extent (the outer faces of the volume stay where they are), with
an average of whole voxels first where an axis is made coarser by two or more, so that noise does
not fold. A label counts where at least half of the new voxel has it. Sizes are rounded to whole
voxels, and the spacing that follows is the one that is written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from fedward.client.data.volumes import MAX_VOXELS
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import ImageSchema

Voxels = npt.NDArray[Any]
"""Of int16 or uint8."""
Labels = npt.NDArray[np.uint8]

AIR = {"HU": -1000, "grey": 0}
"""What lies outside a scan."""
SAME = 1e-3
"""Spacings that differ by less than this share are the same."""
HALF = 0.5
MAX_ROW_VOXELS = 1 << 28
TOUCHING = ndimage.generate_binary_structure(3, 3)  # 26 neighbours


@dataclass(frozen=True, repr=False)
class Grid:
    """A scan.

    Args:
        voxels_DHW: in the schema's unit.
        mask_DHW: its labels; None where nobody drew any.
        spacing_mm: along D, H, W; NaN where it is not known.
    """

    voxels_DHW: Voxels
    mask_DHW: Labels | None
    spacing_mm: tuple[float, float, float]

    def resized(self, size: Sequence[int]) -> "Grid":
        """Return the same extent as `size` voxels."""
        ratio = np.array(self.voxels_DHW.shape) / np.array(size)
        return Grid(
            resized(self.voxels_DHW, size),
            None if self.mask_DHW is None else resized_labels(self.mask_DHW, size),
            triple(np.array(self.spacing_mm) * ratio),
        )

    def around(
        self, centre: Sequence[int], size: Sequence[int], *, fill: int
    ) -> tuple[Voxels, Labels]:
        """Return voxels and labels of `size` round `centre`; labels are 0 without a mask."""
        labels_DHW = np.zeros(tuple(size), dtype=np.uint8)
        if self.mask_DHW is not None:
            labels_DHW = fitted(self.mask_DHW, size, centre=centre, fill=0)
        return fitted(self.voxels_DHW, size, centre=centre, fill=fill), labels_DHW

    @property
    def middle(self) -> list[int]:
        """The voxel in the middle."""
        return [length // 2 for length in self.voxels_DHW.shape]


@dataclass(frozen=True, repr=False)
class CaseRows:
    """The rows of one scan.

    Args:
        image_NS: voxels in the schema's unit.
        mask_NS: labels; zeros where the scan has no mask.
        spacing_mm: of the rows, along D, H, W; NaN where it is not known.
        has_mask: whether somebody drew the structures.
        weight: (N,) voxels of the lesion, or of the structures; zeros without a mask.
        scan_size: voxels of the whole scan along D, H, W, as it is stored.
        scan_spacing_mm: of those.
    """

    image_NS: Voxels
    mask_NS: Labels
    spacing_mm: tuple[float, float, float]
    has_mask: bool
    weight: npt.NDArray[np.int64]
    scan_size: tuple[int, int, int] = (0, 0, 0)
    scan_spacing_mm: tuple[float, float, float] = (np.nan, np.nan, np.nan)

    def __len__(self) -> int:
        """Return N."""
        return len(self.image_NS)

    def take(self, rows: npt.NDArray[np.int64]) -> "CaseRows":
        """Return some of the rows."""
        return replace(
            self,
            image_NS=self.image_NS[rows],
            mask_NS=self.mask_NS[rows],
            weight=self.weight[rows],
        )


def check_size(image: ImageConfig) -> None:
    """Refuse rows that no memory holds.

    Raises:
        ConfigError: `size` has more voxels than `MAX_ROW_VOXELS`.
    """
    if np.prod(np.array(image.size, dtype=np.float64)) > MAX_ROW_VOXELS:
        raise ConfigError(
            f"data.image.size: more than {MAX_ROW_VOXELS} voxels in one row; use a smaller size"
        )


def rows_of(scan: Grid, image: ImageConfig, schema: ImageSchema) -> CaseRows:
    """Return the rows of one scan.

    `lesion`: one row round each connected part (26 neighbours) of the schema's lesion, from the
    largest to the smallest, or one from the middle where there is no mask. `slice`: the axial
    slices that hold a structure, or all where there is no mask. `volume`: one, from the middle.
    At most `max_rows_per_patient`.

    Args:
        scan: voxels, labels and spacing.
        image: size, spacing and kind of the rows.
        schema: unit and structures.

    Raises:
        SiteDataError: the mask fits nothing, holds nothing, or holds no lesion of the least size.
    """
    check_size(image)
    check_mask(scan, schema)
    if image.rows == "slice":
        return _slices(scan, image, schema)
    scan = resampled(scan, image.spacing_mm)
    if image.rows == "lesion" and scan.mask_DHW is not None:
        return _lesions(scan, image, schema)
    if image.rows == "volume" and image.spacing_mm is None and np.isnan(scan.spacing_mm).any():
        scan = scan.resized(image.size)
    voxels_DHW, mask_DHW = scan.around(scan.middle, image.size, fill=AIR[schema.unit])
    return _rows(voxels_DHW[None], mask_DHW[None], scan)


def check_mask(scan: Grid, schema: ImageSchema) -> None:
    """Refuse a mask that cannot be one of these voxels.

    Raises:
        SiteDataError: it has another size, no label at all, or labels that the schema lacks.
    """
    if scan.mask_DHW is None:
        return
    if scan.mask_DHW.shape != scan.voxels_DHW.shape:
        raise SiteDataError("the mask has another size than the images")
    highest = int(scan.mask_DHW.max(initial=0))
    if highest == 0:
        raise SiteDataError("the mask is all background")
    if highest > len(schema.structures):
        raise SiteDataError(
            f"the mask has label {highest}; the schema names {len(schema.structures)} structures"
        )


def resampled(scan: Grid, wanted_mm: Sequence[float] | None) -> Grid:
    """Return the scan with another spacing.

    Args:
        scan: of any size.
        wanted_mm: along D, H, W, or along H, W; None: as it is.

    Raises:
        SiteDataError: a spacing is wanted, and that of the images is not known, or so large that
            no memory holds the result.
    """
    if wanted_mm is None:
        return scan
    size = list(scan.voxels_DHW.shape)
    first = 3 - len(wanted_mm)
    for axis, wanted in enumerate(wanted_mm, start=first):
        spacing = scan.spacing_mm[axis]
        if not spacing > 0:
            raise SiteDataError(
                "the spacing of the voxels is not known, so they cannot be resampled"
            )
        if abs(wanted / spacing - 1) > SAME:
            size[axis] = max(1, round(size[axis] * spacing / wanted))
    if np.prod(size, dtype=np.float64) > MAX_VOXELS:
        raise SiteDataError(
            f"resampled it has more than {MAX_VOXELS:,} voxels; is its spacing in millimetres?"
        )
    return scan.resized(size)


def resized(voxels_DHW: Voxels, size: Sequence[int]) -> Voxels:
    """Return the same extent as `size` voxels, rounded to the type that they had."""
    if tuple(size) == voxels_DHW.shape:
        return voxels_DHW
    values_DHW = _interpolated(torch.from_numpy(voxels_DHW.astype(np.float32)), size).numpy()
    found_DHW: Voxels = np.rint(values_DHW).astype(voxels_DHW.dtype)
    return found_DHW


def resized_labels(mask_DHW: Labels, size: Sequence[int]) -> Labels:
    """Return the labels on `size` voxels; where two hold a half each, the higher one."""
    if tuple(size) == mask_DHW.shape:
        return mask_DHW
    found_DHW = np.zeros(tuple(size), dtype=np.uint8)
    for label in np.unique(mask_DHW[mask_DHW > 0]):
        share_DHW = _interpolated(torch.from_numpy((mask_DHW == label).astype(np.float32)), size)
        found_DHW[share_DHW.numpy() >= HALF] = label
    return found_DHW


def kept_rows(weight: npt.NDArray[np.int64], image: ImageConfig) -> npt.NDArray[np.int64]:
    """Return which rows of one patient are used, in their order.

    Args:
        weight: (N,) as in `CaseRows`.
        image: `rows` and `max_rows_per_patient`.
    """
    most = image.max_rows_per_patient
    if most is None or len(weight) <= most:
        return np.arange(len(weight))
    if image.rows == "slice":
        return np.rint(np.linspace(0, len(weight) - 1, most)).astype(np.int64)
    return np.sort(np.argsort(-weight, kind="stable")[:most])


def fitted(
    array_S: npt.NDArray[Any], size: Sequence[int], *, centre: Sequence[int], fill: int
) -> npt.NDArray[Any]:
    """Return `size` voxels of which the middle one is `centre`; what lies outside is `fill`."""
    out_S = np.full(tuple(size), fill, dtype=array_S.dtype)
    source, target = [], []
    for length, want, middle in zip(array_S.shape, size, centre, strict=True):
        start = middle - want // 2
        low, high = max(start, 0), min(start + want, length)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    out_S[tuple(target)] = array_S[tuple(source)]
    return out_S


def triple(spacing: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Return the three figures of an array."""
    d, h, w = (float(one) for one in spacing)
    return d, h, w


def _lesions(scan: Grid, image: ImageConfig, schema: ImageSchema) -> CaseRows:
    """Return a row round each connected part, from the largest to the smallest."""
    if schema.lesion is None:
        raise ConfigError("data.image.rows: `lesion` needs a schema that names image.lesion")
    label = schema.structures.index(schema.lesion) + 1
    parts_DHW, _ = ndimage.label(scan.mask_DHW == label, structure=TOUCHING)
    weight = np.bincount(parts_DHW.ravel())[1:].astype(np.int64)
    order = np.argsort(-weight, kind="stable")
    order = order[weight[order] >= image.min_lesion_voxels][: image.max_rows_per_patient]
    if len(order) == 0:
        raise SiteDataError(
            f"the mask has no {schema.lesion} of at least {image.min_lesion_voxels} voxels after "
            "resampling"
        )
    boxes = ndimage.find_objects(parts_DHW)
    image_NS = np.empty((len(order), *image.size), dtype=scan.voxels_DHW.dtype)
    mask_NS = np.zeros((len(order), *image.size), dtype=np.uint8)
    for number, part in enumerate(order):
        centre = [(axis.start + axis.stop) // 2 for axis in boxes[part]]
        image_NS[number], mask_NS[number] = scan.around(centre, image.size, fill=AIR[schema.unit])
    return CaseRows(image_NS, mask_NS, scan.spacing_mm, has_mask=True, weight=weight[order])


def _slices(scan: Grid, image: ImageConfig, schema: ImageSchema) -> CaseRows:
    """Return axial slices; where no spacing is known nor wanted, whole ones, resized."""
    mask_DHW = scan.mask_DHW
    chosen = np.arange(len(scan.voxels_DHW))
    if mask_DHW is not None:
        chosen = np.flatnonzero(mask_DHW.any(axis=(1, 2)))
    chosen = chosen[kept_rows(np.zeros(len(chosen), dtype=np.int64), image)]
    labels_NHW = None if mask_DHW is None else mask_DHW[chosen]
    # A slice is as thick as before, however many are left.
    some = resampled(Grid(scan.voxels_DHW[chosen], labels_NHW, scan.spacing_mm), image.spacing_mm)
    size = (len(chosen), *image.size)
    if image.spacing_mm is None and np.isnan(some.spacing_mm[1:]).any():
        some = some.resized(size)
    image_NHW, mask_NHW = some.around(some.middle, size, fill=AIR[schema.unit])
    return _rows(image_NHW, mask_NHW, some)


def _rows(image_NS: Voxels, mask_NS: Labels, scan: Grid) -> CaseRows:
    weight = np.count_nonzero(mask_NS.reshape(len(mask_NS), -1), axis=1).astype(np.int64)
    return CaseRows(image_NS, mask_NS, scan.spacing_mm, scan.mask_DHW is not None, weight)


def _interpolated(values_DHW: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the volume on `size` voxels: averaged along axes that halve, linear along others."""
    now_BCDHW = values_DHW[None, None]
    d, h, w = (
        want if 2 * want <= length else length
        for want, length in zip(size, values_DHW.shape, strict=True)
    )
    if (d, h, w) != tuple(values_DHW.shape):
        now_BCDHW = functional.adaptive_avg_pool3d(now_BCDHW, (d, h, w))
    if (d, h, w) != tuple(size):
        now_BCDHW = functional.interpolate(
            now_BCDHW, size=tuple(size), mode="trilinear", align_corners=False
        )
    return now_BCDHW[0, 0]
