"""A fitted synthesiser as a file: a zip of a JSON header, JSON values and arrays.

Reading it executes nothing: no pickle, and only the types of `codec.py`. The file is its owner's
alone (0600) and whole or not at all. Its header says whether it contains patients.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedward.common.errors import ConfigError, FedwardError, StorageError
from fedward.common.keys import write_private
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.codec import Array, pack, unpack
from fedward.synth.tables.methods import name_of, synthesisers

S = TypeVar("S", bound=Synthesiser)
FORMAT = "fedward-synthesiser"
VERSION = 1
HEADER, VALUES, ARRAYS = "header.json", "values.json", "arrays/"
NOTICE = (
    "This file contains patients' rows, as they are or nearly. It must not leave the hospital; "
    "only sampled rows that were evaluated can be shared."
)
MAX_BYTES = 4 << 30
"""Of the unpacked file."""
MAX_HEADER_BYTES = 16 << 20
_DAMAGE = (
    KeyError,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,  # of zipfile, for another compression or a password
    zlib.error,
    zipfile.BadZipFile,
)
"""What reading a damaged file raises."""


def save(model: Synthesiser, path: Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a fitted synthesiser to `path`, in place of what is there.

    Args:
        model: of a method that is listed in `methods.py`.
        path: of the file.
        facts: what else its header tells, as JSON can hold it.

    Raises:
        StorageError: it cannot be written, or the method cannot be stored.
    """
    method = name_of(model)
    if method is None:
        raise StorageError(f"{type(model).__name__} is no listed method, so it cannot be read back")
    if not hasattr(model, "encoder_"):
        raise StorageError(f"{path}: this {type(model).__name__} has learned nothing yet; call fit")
    arrays: dict[str, Array] = {}
    given = model.get_params(deep=False)
    if not model.holds_patients:
        # As described in the end: a copula forgets the bounds that were read off the rows.
        given["columns"] = model.columns_
    try:
        values = {"parameters": pack(given, arrays), "state": pack(model._state(), arrays)}
    except StorageError as error:
        raise StorageError(f"{path}: {method}: {error}") from None
    try:
        header = json.dumps(_told(model, method, facts or {}), indent=1, allow_nan=False)
    except (TypeError, ValueError):
        raise StorageError(f"{path}: facts: expected what JSON can hold") from None
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(HEADER, header)
        archive.writestr(VALUES, json.dumps(values))
        for name, array in arrays.items():
            with archive.open(f"{ARRAYS}{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_private(path, content.getvalue())


def load(path: Path | str) -> Synthesiser:
    """Return what `save` wrote.

    Raises:
        StorageError: it is no such file, damaged, or of another version.
        ConfigError: its method needs what is not installed.
    """
    path = Path(path)
    with _opened(path) as archive:
        header = _header(archive, path)
        arrays = {name: _array(archive, path, name) for name in _array_names(archive)}
        found = _json(archive, path, VALUES, limit=MAX_BYTES)
    if header["method"] not in synthesisers:
        raise StorageError(
            f"{path}: holds the method {header['method']!r}, which is not known here"
        )
    cls = synthesisers[header["method"]].load()  # its module makes its types known to the codec
    try:
        model = cls(**unpack(found["parameters"], arrays))
        model._restore(dict(unpack(found["state"], arrays)))
    except (StorageError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: {_reason(error)}") from None
    return model


def load_as(cls: type[S], path: Path) -> S:
    """Return what `save` wrote of a `cls`.

    Raises:
        StorageError: as `load`, or it is of another class.
    """
    model = load(path)
    if not isinstance(model, cls):
        raise StorageError(f"{path}: holds a {type(model).__name__}, no {cls.__name__}")
    return model


def read_header(path: Path | str) -> dict[str, Any]:
    """Return what a file tells of itself, without reading what was learned.

    Raises:
        StorageError: it is no such file, damaged, or of another version.
    """
    path = Path(path)
    with _opened(path) as archive:
        return _header(archive, path)


def _told(model: Synthesiser, method: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the header tells."""
    claim = getattr(model, "privacy_claim", None)
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": method,
        "contains_patients": model.holds_patients,
        **({"notice": NOTICE} if model.holds_patients else {}),
        **({"privacy": claim().to_dict()} if claim is not None else {}),
        "columns": list(model.columns_.names),
        "label": model.columns_.label,
        "class_sizes": list(model.class_sizes_),
        "made_by": f"fedward {version('fedward')}",
        "facts": dict(facts),
    }


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise StorageError(f"{path}: there is no such file") from None
    except (OSError, zipfile.BadZipFile) as error:
        what = getattr(error, "strerror", None) or "damaged, or no synthesiser"
        raise StorageError(f"{path}: cannot be read ({what})") from None
    if sum(one.file_size for one in archive.infolist()) > MAX_BYTES:
        archive.close()
        raise StorageError(f"{path}: larger than {MAX_BYTES >> 30} GiB when unpacked")
    return archive


def _header(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    header = _json(archive, path, HEADER, limit=MAX_HEADER_BYTES)
    if header.get("format") != FORMAT or not isinstance(header.get("method"), str):
        raise StorageError(f"{path}: is no synthesiser (see `fedward synth fit`)")
    if header.get("version") != VERSION:
        raise StorageError(
            f"{path}: has version {header.get('version')} of the format, and this fedward reads "
            f"{VERSION}; fit again, or use the fedward that wrote it ({header.get('made_by')})"
        )
    return header


def _json(archive: zipfile.ZipFile, path: Path, name: str, *, limit: int) -> dict[str, Any]:
    try:
        if archive.getinfo(name).file_size > limit:
            raise StorageError(f"{path}: {name} is too large")
        found = json.loads(archive.read(name))
    except _DAMAGE as error:
        raise StorageError(f"{path}: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise StorageError(f"{path}: {name} is damaged")
    return found


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    return [
        name.removeprefix(ARRAYS).removesuffix(".npy")
        for name in archive.namelist()
        if name.startswith(ARRAYS)
    ]


def _array(archive: zipfile.ZipFile, path: Path, name: str) -> Array:
    try:
        with archive.open(f"{ARRAYS}{name}.npy") as file:
            found: Array = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # reads to the end, where the checksum is compared
                raise StorageError(f"{path}: array {name} is damaged")
    except (*_DAMAGE, MemoryError) as error:
        raise StorageError(f"{path}: {_reason(error)}") from None
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, FedwardError):
        return str(error)
    return f"damaged, or no synthesiser ({type(error).__name__})"
