"""Images in an `.npz` file: the rows of a table, with an image and a mask each.

Every array of one dimension with a value per image is a column, as it is named. `<name>_names`
spells the codes of column `<name>`, such as `site_names` those of `site`. Masks may be packed bits
(numpy.packbits along the last axis), with their size in `mask_shape`; `pixel_spacing_mm` or
`spacing_mm` gives the size of a voxel: one figure in plane, or D, H, W.

Legend: N rows, S their axes (D, H, W or H, W).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.data.ct_rows import AIR, Grid, check_size, resampled, triple
from fedward.client.data.damaged import damage_as
from fedward.client.data.read import table_from_frame, usable_rows
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.rows import HAS, IMAGE, MASK, MODALITIES, SPACING_MM
from fedward.common.tables.schema import ImageSchema, TableSchema
from fedward.common.tables.table import Table

Array = npt.NDArray[Any]
ARRAY_SUFFIX = ".npz"
MASK_SHAPE = "mask_shape"
SPACINGS = ("spacing_mm", "pixel_spacing_mm")
NAMES = "_names"
MAX_BYTES = 64 << 30


def read_arrays(path: Path, schema: TableSchema) -> tuple[pd.DataFrame, dict[str, Array]]:
    """Return the columns of an `.npz` file, and its images, masks and spacings.

    The index of the frame counts the rows of the arrays: a part of the frame is enough to find
    them again (see `table_from_arrays`).

    Args:
        path: the file. Nothing in it is executed: pickled objects are refused.
        schema: names the arrays (`image.image_array`, `image.mask_array`).

    Raises:
        ConfigError: the schema has no images.
        SiteDataError: the file cannot be read, or its arrays do not fit together.
    """
    images = _image_schema(schema)
    stored = _load(path)
    if images.image_array not in stored:
        raise SiteDataError(
            f"{path}: has no array {images.image_array!r}; it has {', '.join(sorted(stored))}"
        )
    image_NS = stored.pop(images.image_array)
    if image_NS.ndim not in (3, 4):
        raise SiteDataError(
            f"{path}: {images.image_array}: expected images (N, H, W) or (N, D, H, W)"
        )
    arrays = {IMAGE: _integers(image_NS, images.image_array, path)}
    if images.structures and images.mask_array in stored:
        packed = stored.pop(images.mask_array)
        arrays[MASK] = _masks(packed, stored.pop(MASK_SHAPE, None), image_NS, images, path)
    spacing = next((stored[name] for name in SPACINGS if name in stored), None)
    arrays[SPACING_MM] = _spacings(spacing, len(image_NS), path)
    return _columns(stored, len(image_NS)), arrays


def table_from_arrays(  # noqa: PLR0913 - a table, its arrays, and what a run wants of them
    frame: pd.DataFrame,
    arrays: Mapping[str, Array],
    schema: TableSchema,
    *,
    image: ImageConfig | None,
    place: str,
    excluded: Collection[Any] = (),
) -> Table:
    """Return the rows of `frame` with their images, checked against the schema.

    Images are resampled where `image.spacing_mm` says so, then cut from their middle or padded.
    Where no spacing is wanted and none is known, whole images (`slice`, `volume`) are resized.

    Args:
        frame: as `read_arrays` returned it, or some of its rows with their index.
        arrays: as `read_arrays` returned them, whole.
        schema: what the columns mean.
        image: how the run wants its images; None: as they are stored.
        place: file or site, for messages.
        excluded: patients that are never used.

    Raises:
        ConfigError: the run wants rows that such images cannot give.
        SiteDataError: as `table_from_frame`.
    """
    images = _image_schema(schema)
    usable = usable_rows(frame, schema, place=place, excluded=excluded)
    table = table_from_frame(usable, schema, place=place)
    rows = usable.index.to_numpy(dtype=np.int64)
    some = {name: array[rows] for name, array in arrays.items()}
    if image is not None:
        some = _as_wanted(some, image, images, place)
    has = dict(
        zip(
            MODALITIES,
            (True, MASK in some, bool(schema.fields), schema.label is not None),
            strict=True,
        )
    )
    some.setdefault(MASK, np.zeros(some[IMAGE].shape, dtype=np.uint8))
    flags = {HAS + name: np.full(len(rows), value) for name, value in has.items()}
    return replace(table, arrays={**table.arrays, **some, **flags})


class ArraySource:
    """Reads one `.npz` file once. It has no repr: it leads to patients.

    Args:
        site_id: whose file it is.
        path: the file.
        schema: what its columns mean.
        image: how the run wants its images; None: as they are stored.
        excluded: patient ids that are never used.
    """

    def __init__(
        self,
        site_id: str,
        path: Path,
        schema: TableSchema,
        *,
        image: ImageConfig | None = None,
        excluded: Collection[Any] = (),
    ) -> None:
        self.site_id = site_id
        self._path = path
        self._schema = schema
        self._image = image
        self._excluded = excluded

    def read(self) -> Table:
        """Return the file's rows, checked against the schema.

        Raises:
            SiteDataError: the file does not hold what the schema promises.
        """
        return self._table

    def patient_ids(self) -> list[Any]:
        """Return the identifier of each usable patient, each once; none without such a column."""
        column = self._schema.patient_id
        if column is None:
            return []
        self.read()
        rows = usable_rows(
            self._stored[0], self._schema, place=str(self._path), excluded=self._excluded
        )
        return list(rows[column].unique())

    @cached_property
    def _stored(self) -> tuple[pd.DataFrame, dict[str, Array]]:
        return read_arrays(self._path, self._schema)

    @cached_property
    def _table(self) -> Table:
        frame, arrays = self._stored
        return table_from_arrays(
            frame,
            arrays,
            self._schema,
            image=self._image,
            place=str(self._path),
            excluded=self._excluded,
        )


def _image_schema(schema: TableSchema) -> ImageSchema:
    if schema.image is None:
        raise ConfigError(
            f"data.schema: {schema.name} has no section `image`, and the data are images"
        )
    return schema.image


def _load(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise SiteDataError(f"{path}: there is no such file")
    with (
        damage_as(f"{path}: cannot be read as arrays"),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise SiteDataError(f"{path}: not an .npz file of named arrays")
        unpacked = sum(entry.file_size for entry in stored.zip.infolist()) if stored.zip else 0
        if unpacked > MAX_BYTES:
            raise SiteDataError(f"{path}: unpacks to more than {MAX_BYTES >> 30} GiB")
        return {name: stored[name] for name in stored.files}


def _integers(image_NS: Array, name: str, path: Path) -> Array:
    """Return the images as uint8 or int16."""
    if image_NS.dtype in (np.uint8, np.int16):
        return image_NS
    bounds = np.iinfo(np.int16)
    fits = image_NS.size == 0 or (image_NS.min() >= bounds.min and image_NS.max() <= bounds.max)
    if image_NS.dtype.kind not in "iu" or not fits:
        raise SiteDataError(
            f"{path}: {name}: expected whole numbers of 16 bits at most (HU, or grey values)"
        )
    return image_NS.astype(np.int16)


def _masks(
    stored: Array, shape: Array | None, image_NS: Array, images: ImageSchema, path: Path
) -> Array:
    """Return the masks as labels with the size of the images."""
    if shape is not None:
        size = tuple(int(length) for length in np.ravel(shape))
        count = int(np.prod(size[1:]))
        if (
            size != image_NS.shape
            or stored.dtype != np.uint8
            or stored.shape != (len(image_NS), -(-count // 8))
        ):
            raise SiteDataError(f"{path}: {MASK_SHAPE} does not fit {images.mask_array} and images")
        stored = np.unpackbits(stored, axis=1, count=count).reshape(size)
    if stored.shape != image_NS.shape:
        raise SiteDataError(f"{path}: {images.mask_array} have another size than the images")
    if stored.dtype.kind not in "iub" or (
        stored.size and (stored.min() < 0 or stored.max() > len(images.structures))
    ):
        raise SiteDataError(
            f"{path}: {images.mask_array}: expected labels from 0 to {len(images.structures)}"
        )
    return stored.astype(np.uint8, copy=False)


def _spacings(stored: Array | None, count: int, path: Path) -> Array:
    """Return (N, 3) spacings along D, H, W; NaN where not known."""
    spacing_N3 = np.full((count, 3), np.nan, dtype=np.float32)
    if stored is None:
        return spacing_N3
    if stored.shape == (count,):
        spacing_N3[:, 1:] = stored[:, None]
    elif stored.shape in ((count, 2), (count, 3)):
        spacing_N3[:, -stored.shape[1] :] = stored
    else:
        raise SiteDataError(f"{path}: spacing: expected one figure, H and W, or D, H and W per row")
    if (spacing_N3 <= 0).any():
        raise SiteDataError(f"{path}: spacing: expected millimetres above 0")
    return spacing_N3


def _columns(stored: Mapping[str, Array], count: int) -> pd.DataFrame:
    """Return the arrays with one value per row; codes are spelled out."""
    columns = {}
    for name, values in stored.items():
        if values.shape != (count,):
            continue
        names = stored.get(name + NAMES)
        is_code = values.dtype.kind in "iu" and values.min(initial=0) >= 0
        if names is not None and is_code and values.max(initial=0) < len(names):
            # As the name of a site may be spelled.
            spelled = [re.sub(r"[^A-Za-z0-9_-]+", "-", str(one)).strip("-") for one in names]
            columns[name] = np.array(spelled, dtype=object)[values.astype(np.int64)]
        else:
            columns[name] = values.astype(object) if values.dtype.kind in "US" else values
    return pd.DataFrame(columns, index=pd.RangeIndex(count))


def _as_wanted(
    arrays: Mapping[str, Array], image: ImageConfig, images: ImageSchema, place: str
) -> dict[str, Array]:
    """Return arrays of the run's size."""
    check_size(image)
    image_NS, spacing_N3 = arrays[IMAGE], arrays[SPACING_MM]
    if image_NS.ndim - 1 != len(image.size):
        raise ConfigError(
            f"data.image.size: {place} holds images of {image_NS.ndim - 1} dimensions, and `size` "
            f"has {len(image.size)} figures"
        )
    if image_NS.shape[1:] == image.size and image.spacing_mm is None:
        return dict(arrays)
    found: dict[str, Array] = {
        IMAGE: np.empty((len(image_NS), *image.size), dtype=image_NS.dtype),
        SPACING_MM: spacing_N3.copy(),
    }
    if MASK in arrays:
        found[MASK] = np.zeros((len(image_NS), *image.size), dtype=np.uint8)
    flat = image_NS.ndim == 3
    size = (1, *image.size) if flat else image.size
    for row, spacing_mm in enumerate(spacing_N3):
        cells = (row, None) if flat else (row,)
        mask_DHW = arrays[MASK][cells] if MASK in arrays else None
        scan = _resampled(Grid(image_NS[cells], mask_DHW, triple(spacing_mm)), image, size)
        voxels_DHW, labels_DHW = scan.around(scan.middle, size, fill=AIR[images.unit])
        found[IMAGE][row] = voxels_DHW.reshape(image.size)
        found[SPACING_MM][row] = scan.spacing_mm
        if MASK in arrays:
            found[MASK][row] = labels_DHW.reshape(image.size)
    return found


def _resampled(scan: Grid, image: ImageConfig, size: tuple[int, ...]) -> Grid:
    if image.spacing_mm is None and image.rows != "lesion" and np.isnan(scan.spacing_mm[1:]).any():
        return scan.resized(size)
    return resampled(scan, image.spacing_mm)
