"""Covariance maps on a disk: one `.safetensors` file per site and round.

`FOLDER/<site>/round-00012.safetensors`, readable by their own user only: under `rms` a map says how
a site moved the model, up to a rotation of the inputs.

Shapes: P output neurons (rows); B <= 128 blocks of them. A larger map is kept as means of B x B
blocks, for looking at: the file then says `is_block_mean`, and how many rows there were.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open

from fedward.common.errors import StorageError
from fedward.common.monitoring.stream import LayerFigures, LayerRound, Map
from fedward.common.tensor_file import tensor_parts

MAX_ROWS = 128
_SUFFIX = ".safetensors"
_KEY = "layers"


class _Told(BaseModel):
    """What a file says of a layer beside its map."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    log_mag: float | None = None
    rho: float | None = None
    map_cos: float | None = None
    top1: float | None = None
    acf: float | None = None
    num_snapshots: int
    num_rows: int
    is_sketched: bool
    is_block_mean: bool


_LAYERS = TypeAdapter(dict[str, _Told])


def write_maps(
    folder: Path, site: str, round_number: int, layers: Mapping[str, LayerRound]
) -> Path:
    """Write the maps of one site in one round, and return the file.

    A file of the same site and round is replaced. It may be lost with the power, but is never
    half written.

    Raises:
        StorageError: the file cannot be written, or the site has a name that no folder can have.
    """
    path = folder / site / f"round-{round_number:05d}{_SUFFIX}"
    if site in {"", ".", ".."} or Path(site).name != site:
        raise StorageError(f"{folder}: {site!r} cannot be the name of a folder")
    maps = {name: _blocks(layer.map_PP) for name, layer in layers.items()}
    told = {name: _told(layer).model_dump(exclude_none=True) for name, layer in layers.items()}
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        for place in (folder, path.parent):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            for content in tensor_parts(maps, {_KEY: json.dumps(told, allow_nan=False)}):
                file.write(content)
        part.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def read_maps(path: Path) -> dict[str, LayerRound]:
    """Return what `write_maps` wrote, by layer, in the order of the model.

    Raises:
        StorageError: the file cannot be read, or is none of these.
    """
    try:
        with safe_open(path, "numpy") as file:
            told = _LAYERS.validate_json((file.metadata() or {})[_KEY])
            return {name: _layer(entry, file.get_tensor(name)) for name, entry in told.items()}
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StorageError(f"{path}: cannot be read: {why}") from error
    except (SafetensorError, KeyError, ValueError) as error:  # pydantic's are of the last kind
        raise StorageError(
            f"{path}: is damaged, or no file of covariance maps ({type(error).__name__}); "
            "take it away"
        ) from None


def list_maps(folder: Path) -> dict[str, dict[int, Path]]:
    """Return the files in `folder` by site and round, both in order; empty where there is none."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.glob(f"*/round-*{_SUFFIX}")):
        number = path.name.removeprefix("round-").removesuffix(_SUFFIX)
        if number.isascii() and number.isdecimal():
            found.setdefault(path.parent.name, {})[int(number)] = path
    return {site: dict(sorted(files.items())) for site, files in found.items()}


def _told(layer: LayerRound) -> _Told:
    num_rows = len(layer.map_PP)
    return _Told(
        **layer.figures.to_json(),
        acf=layer.acf,
        num_snapshots=layer.num_snapshots,
        num_rows=num_rows,
        is_sketched=layer.is_sketched,
        is_block_mean=num_rows > MAX_ROWS,
    )


def _layer(told: _Told, map_BB: Map) -> LayerRound:
    if map_BB.dtype != np.float32 or map_BB.shape != (min(told.num_rows, MAX_ROWS),) * 2:
        raise ValueError("a map of another form")
    figures = LayerFigures(told.log_mag, told.rho, told.map_cos, told.top1)
    return LayerRound(figures, map_BB, told.acf, told.num_snapshots, told.is_sketched)


def _blocks(map_PP: Map) -> Map:
    """Return a map of at most MAX_ROWS rows: means of blocks of neighbouring rows and columns."""
    num_rows = len(map_PP)
    if num_rows <= MAX_ROWS:
        return map_PP
    starts = np.arange(MAX_ROWS) * num_rows // MAX_ROWS
    sizes_B = np.diff(starts, append=num_rows)
    sums_BP = np.add.reduceat(map_PP, starts, axis=0, dtype=np.float64)
    sums_BB = np.add.reduceat(sums_BP, starts, axis=1)
    means_BB: Map = (sums_BB / np.outer(sizes_B, sizes_B)).astype(np.float32)
    return means_BB
