"""The stored pixels of DICOM files; those that only an unsafe decoder reads, in a process apart.

GDCM ends the whole process on some damaged files, and is all there is for lossless JPEG. Run as a
program, this module decodes the files that stdin names and writes their pixels to stdout.

Legend: K frames, R rows, C columns.
"""

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fedward.client.data.damaged import damage_as
from fedward.common.errors import SiteDataError

UNDECODABLE = "a file cannot be decoded; is it complete?"
SIZE_BYTES = 8
SAFE_PLUGINS = {
    JPEG2000: "pylibjpeg",
    JPEG2000Lossless: "pylibjpeg",
    JPEGBaseline8Bit: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    RLELossless: "pydicom",
}
KEYWORDS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
TAGS: list[Any] = [Tag(keyword) for keyword in KEYWORDS]


def read_pixels(paths: Sequence[Path]) -> Iterator[tuple[Dataset, NDArray[np.int_]]]:
    """Yield each file's header and its (K, R, C) pixels as they are stored, before any rescale.

    Raises:
        SiteDataError: a file cannot be read or decoded.
    """
    apart: Iterator[NDArray[Any]] | None = None
    for done, path in enumerate(paths):
        dataset = _read(path)
        if _is_safe(_syntax(dataset)):
            yield dataset, _shaped(_decode(dataset), dataset)
        else:
            apart = apart or _decode_apart([p for p in paths[done:] if not _is_safe_file(p)])
            yield dataset, _shaped(next(apart), dataset)


def _read(path: Path) -> Dataset:
    with damage_as("a file cannot be read"):
        dataset = dcmread(path, force=True, specific_tags=TAGS)
    if "TransferSyntaxUID" not in dataset.file_meta:
        # Of a file without a meta group: as pydicom found it to be written.
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def _syntax(dataset: Dataset) -> UID:
    return UID(dataset.file_meta.TransferSyntaxUID)


def _is_safe(syntax: UID) -> bool:
    return not syntax.is_encapsulated or syntax in SAFE_PLUGINS


def _is_safe_file(path: Path) -> bool:
    return _is_safe(_syntax(_read(path)))


def _decode(dataset: Dataset) -> NDArray[Any]:
    plugin = SAFE_PLUGINS.get(_syntax(dataset), "")
    with damage_as(UNDECODABLE):
        return pixel_array(dataset, decoding_plugin=plugin)


def _shaped(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.int_]:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if pixels.dtype.kind not in "iu" or pixels.shape[-2:] != (rows, columns):
        raise SiteDataError("the pixels of a file are not as its header says")
    return pixels.reshape(-1, rows, columns)


def _decode_apart(paths: Sequence[Path]) -> Iterator[NDArray[Any]]:
    """Yield the pixels of each file, decoded by a process that may end."""
    names = "\0".join(str(path.absolute()) for path in paths)
    with subprocess.Popen(  # noqa: S603 - this very module
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders quote headers
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(names.encode("utf-8", "surrogateescape"))
        process.stdin.close()
        for _ in paths:
            num_bytes = int.from_bytes(process.stdout.read(SIZE_BYTES), "little")
            content = process.stdout.read(num_bytes)
            if not num_bytes or len(content) < num_bytes:
                raise SiteDataError(f"{UNDECODABLE} (the decoder ended)")
            yield np.load(io.BytesIO(content), allow_pickle=False)


def _main() -> None:
    names = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    for name in names.split("\0"):
        content = io.BytesIO()
        np.save(content, _decode(_read(Path(name))), allow_pickle=False)
        sys.stdout.buffer.write(content.tell().to_bytes(SIZE_BYTES, "little"))
        sys.stdout.buffer.write(content.getbuffer())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
