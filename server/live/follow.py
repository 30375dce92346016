"""Reads a history while a run writes it: only what is new, or all of it once it was rewritten.

A run appends; one that is resumed drops the rounds after its checkpoint and goes on. What was read
before is therefore trusted only while the bytes before the place where reading stopped are still
there: durations in every line make two histories differ within a few of them.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

FINGERPRINT_BYTES = 1024
_TABLES = ("metrics", "update", "cme")
_NUMBERS = ("seconds", "bytes_sent", "bytes_received")


class HistoryFile:
    """The whole lines of a `history.jsonl`, as far as they were there at the last `refresh`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.num_changes = 0
        """Goes up whenever `lines` changed."""
        self.num_unreadable = 0
        """Whole lines that are not a line of a history."""
        self.changed_at_s: float | None = None
        """When the file last changed, in seconds since 1970; None without a file."""
        self._offset = 0
        self._inode = 0
        self._before = b""

    def refresh(self) -> bool:
        """Read what is new, and return whether `lines` changed; a cut last line waits.

        A file that cannot be read (gone, or not ours) counts as an empty one.
        """
        try:
            with self.path.open("rb") as file:
                changed = self._read(file)
        except OSError:
            changed = bool(self.lines)
            self._forget()
            self.changed_at_s = None
        self.num_changes += changed
        return changed

    def _read(self, file: BinaryIO) -> bool:
        found = self.path.stat()
        self.changed_at_s = found.st_mtime
        rewritten = found.st_ino != self._inode or not self._is_as_before(file, found.st_size)
        had = bool(self.lines)
        if rewritten:
            self._forget()
            self._inode = found.st_ino
        file.seek(self._offset)
        new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        if not whole:
            return rewritten and had
        self._offset += len(whole)
        self._before = (self._before + whole)[-FINGERPRINT_BYTES:]
        for line in whole.splitlines():
            self._add(line)
        return True

    def _is_as_before(self, file: BinaryIO, num_bytes: int) -> bool:
        if num_bytes < self._offset:
            return False
        file.seek(self._offset - len(self._before))
        return bool(file.read(len(self._before)) == self._before)

    def _add(self, line: bytes) -> None:
        try:
            read = json.loads(line)
        except ValueError:  # bytes that are no text are one as well
            read = None
        if _is_entry(read):
            self.lines.append(read)
        elif line.strip():
            self.num_unreadable += 1

    def _forget(self) -> None:
        self.lines, self.num_unreadable = [], 0
        self._offset, self._inode, self._before = 0, 0, b""


def _is_entry(read: Any) -> bool:
    """Return whether something has the form of a line of a history, for those who draw it."""
    if not isinstance(read, dict) or type(read.get("round")) is not int:
        return False
    tables = [read.get(key) or {} for key in _TABLES]
    if not all(isinstance(table, dict) for table in tables):
        return False
    layers = tables[_TABLES.index("cme")].values()
    numbers = (read.get(key, 0) for key in _NUMBERS)
    return all(isinstance(layer, dict) for layer in layers) and all(
        isinstance(number, (int, float)) for number in numbers
    )
