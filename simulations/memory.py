"""Peak memory of a run: this process and all that it started, shared pages counted once."""

import threading
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 2.0


class PeakMemory:
    """Samples the summed proportional set size (PSS) every two seconds while the block runs."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Take one measurement now."""
        self.peak_bytes = max(self.peak_bytes, tree_bytes())

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.sample()


def tree_bytes() -> int:
    """Return the PSS of this process and its descendants, in bytes (RSS where there is no PSS)."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it ended meanwhile, or is not ours to read
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
