"""Rows of scans on the site's own disk, so that a second start reads no DICOM.

A cached scan is known by its files' names, sizes and times, and by the parts of schema and run that
shape rows: what changes is read anew. File names are keyed hashes, files are 0600 in a folder of
mode 0700, and nothing is unpickled. An index says which scans a folder holds; it names patients, as
the folder does. When a patient withdraws, their scans leave the cache with the next read, or the
next start of the site's worker.
"""

import contextlib
import fcntl
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import stat
import time
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fedward.client.data.ct_rows import CaseRows, triple
from fedward.client.data.quarantine import FILE_NAME
from fedward.client.data.read import spelled
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import read_private, write_private

VERSION = 2
"""Of what is cached: another one is never read."""
KEY_FILE = "key"
LOCK_FILE = "lock"
KEY_BYTES = 32
INDEX_SUFFIX = ".json"
ROWS_SUFFIX = ".npz"
DAY_S = 86_400
OWN = re.compile(r"\.?([0-9a-f]{64}\.(npz|json)|key|lock|quarantine\.csv)(\.[0-9a-f]{16})?")
"""Names of a cache's files, also of those that are half written."""
_PURPOSE = b"fedward ct cache\x00"


@dataclass(frozen=True, repr=False)
class Case:
    """One scan whose rows are in the cache."""

    patient: str
    """As the scan names them."""
    folder: str
    """The first folder below the site's folder of images; empty where there is none."""
    name: str
    """Of its rows in the cache."""
    weights: tuple[int, ...]
    """As `CaseRows.weight`."""
    has_mask: bool
    files: tuple[str, ...]
    """Below the site's folder."""

    def is_of(self, patients: Collection[str]) -> bool:
        """Return whether it is of one of `patients`, each as `spelled` returns it."""
        return spelled(self.patient) in patients or spelled(self.folder) in patients


@dataclass(frozen=True, repr=False)
class Index:
    """What one reading of a folder came to."""

    asked: str
    """Hash of folder, schema and run: of two indices for the same, the older is of no use."""
    excluded: str
    """Hash of the exclusion list that was in force."""
    cases: tuple[Case, ...]
    quarantined: tuple[tuple[str, str], ...]
    """(file, reason)."""


class CtCache:
    """A folder of cached rows.

    Args:
        folder: made when it is first needed.
        salt: keys the file names; None: a key of the cache's own.
    """

    def __init__(self, folder: Path, *, salt: bytes | None = None) -> None:
        self.folder = folder
        self._salt = salt

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from reading the same scans meanwhile; they find them done.

        Raises:
            StorageError: the folder cannot be made, or others can look into it.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(self.folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                self.folder.chmod(0o700)
            handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: the cache of images cannot be used ({error.strerror})"
            ) from None
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._hand_over()

    def name_of(self, *parts: object) -> str:
        """Return the keyed hash of anything that JSON can say."""
        text = json.dumps([VERSION, *parts], sort_keys=True, default=str)
        content = _PURPOSE + text.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def load_rows(self, name: str) -> CaseRows | None:
        """Return cached rows; None where there are none, or the file was damaged."""
        try:
            with (
                (self.folder / f"{name}{ROWS_SUFFIX}").open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                depth, height, width = (int(side) for side in stored["scan_size"])
                return CaseRows(
                    stored["image"],
                    stored["mask"],
                    triple(stored["spacing_mm"]),
                    has_mask=bool(stored["has_mask"]),
                    weight=stored["weight"],
                    scan_size=(depth, height, width),
                    scan_spacing_mm=triple(stored["scan_spacing_mm"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def keep_rows(self, name: str, rows: CaseRows) -> None:
        """Write rows down.

        Raises:
            StorageError: they cannot be written.
        """
        content = io.BytesIO()
        # Masks are nearly all zeros; images do not shrink enough for the time that it takes.
        np.savez(
            content,
            image=rows.image_NS,
            mask=rows.mask_NS,
            spacing_mm=np.array(rows.spacing_mm),
            has_mask=np.array(rows.has_mask),
            weight=rows.weight,
            scan_size=np.array(rows.scan_size),
            scan_spacing_mm=np.array(rows.scan_spacing_mm),
        )
        write_private(self.folder / f"{name}{ROWS_SUFFIX}", content.getvalue())

    def load_index(self, name: str) -> Index | None:
        """Return an index all of whose rows are there; None otherwise."""
        index = _read_index(self.folder / f"{name}{INDEX_SUFFIX}")
        if index is None:
            return None
        here = {path.stem for path in self.folder.glob(f"*{ROWS_SUFFIX}")}
        return index if here.issuperset(case.name for case in index.cases) else None

    def keep_index(self, name: str, index: Index) -> None:
        """Write an index down, and tidy away what no index needs any more.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.folder / f"{name}{INDEX_SUFFIX}"
        write_private(path, json.dumps(asdict(index)).encode("ascii"))
        needed = set()
        for other, found in self._indices():
            if other != path and found.asked == index.asked:
                other.unlink(missing_ok=True)
            else:
                needed |= {case.name for case in found.cases}
        for rows in self.folder.glob(f"*{ROWS_SUFFIX}"):
            if rows.stem not in needed:  # whoever reads holds the lock: it is nobody's
                rows.unlink(missing_ok=True)

    def forget(self, patients: Collection[str], excluded: str) -> None:
        """Remove the scans of patients, and every index from before they were excluded.

        Args:
            patients: each as `spelled` returns it.
            excluded: hash of the exclusion list that names them.
        """
        for path, index in self._indices():
            if index.excluded == excluded:
                continue
            for case in index.cases:
                if case.is_of(patients):
                    (self.folder / f"{case.name}{ROWS_SUFFIX}").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            # It may name their files; the next read writes it anew.
            (self.folder / FILE_NAME).unlink(missing_ok=True)

    def tidy(self, excluded: Collection[str], *, days: int | None = None) -> None:
        """Remove the scans of excluded patients, and whatever was read more than `days` days ago.

        Args:
            excluded: the exclusion list, each as `spelled` returns it.
            days: `retention_days` of site.yaml; what a run needs is read again.

        Raises:
            StorageError: the folder cannot be used.
        """
        if not self.folder.is_dir():
            return
        with self.locked():
            self.forget(excluded, self.name_of("excluded", sorted(excluded)))
            if days is None:
                return
            oldest = time.time() - days * DAY_S
            for path in own_files(self.folder):
                if path.name not in (KEY_FILE, LOCK_FILE) and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)

    def num_scans_of(self, patient: str) -> int:
        """Return how many scans of a patient, as the hospital spells the name, are here."""
        cases = (case for _, index in self._indices() for case in index.cases)
        names = {case.name for case in cases if case.is_of({spelled(patient)})}
        return sum((self.folder / f"{name}{ROWS_SUFFIX}").exists() for name in names)

    def _hand_over(self) -> None:
        """Give what root wrote to whose folder it is: `fedward check` may be run by root."""
        if os.geteuid() != 0:
            return
        with contextlib.suppress(OSError):
            owner = self.folder.stat() if self.folder.stat().st_uid else self.folder.parent.stat()
            for path in (self.folder, *self.folder.iterdir()):
                if path.lstat().st_uid == 0:
                    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _indices(self) -> list[tuple[Path, Index]]:
        found = [(path, _read_index(path)) for path in self.folder.glob(f"*{INDEX_SUFFIX}")]
        return [(path, index) for path, index in found if index is not None]

    @cached_property
    def _key(self) -> bytes:
        if self._salt is not None:
            return self._salt
        path = self.folder / KEY_FILE
        with contextlib.suppress(FileExistsError):
            write_private(path, secrets.token_bytes(KEY_BYTES), replace=False)
        try:
            return read_private(path)
        except ConfigError as error:
            raise StorageError(f"the cache of images cannot be used: {error}") from None


def own_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that a cache made; what else lies there is not its own."""
    return sorted(path for path in folder.iterdir() if OWN.fullmatch(path.name))


def _read_index(path: Path) -> Index | None:
    try:
        stored = json.loads(path.read_bytes())
        cases = [
            Case(**{**case, "weights": tuple(case["weights"]), "files": tuple(case["files"])})
            for case in stored["cases"]
        ]
        quarantined = [(str(file), str(reason)) for file, reason in stored["quarantined"]]
        return Index(stored["asked"], stored["excluded"], tuple(cases), tuple(quarantined))
    except (OSError, ValueError, KeyError, TypeError):
        return None
