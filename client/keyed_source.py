"""Random numbers that only this site can make, and can make again.

A worker that dies is sent its message again. Fresh noise on the same sums, or fresh rows of the
same patients, would then be a second release. Numbers from a key that never leaves the site, and
from what exactly is released, are the same the second time and unknown to everybody else; a run's
own seed is not: the coordinator knows it, and could take the noise off again.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

Below = Callable[[int], int]
"""Returns a uniform integer from 0 to below its argument."""
_PURPOSE = b"fedward synthesis\x00"
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class KeyedSource:
    """Numbers of one site.

    Args:
        key: secret; at a hospital its salt, in a simulation the run's seed.
    """

    key: bytes

    def __repr__(self) -> str:
        return "KeyedSource(...)"

    def number(self, label: str) -> int:
        """Return an integer of 128 bits; another one for each label."""
        return int.from_bytes(self._derived(label)[:16], "big")

    def below(self, label: str) -> Below:
        """Return a source of uniform integers; another one for each label.

        The stream is SHAKE-256 of a key derived for the label, block by block.
        """
        return _Stream(self._derived(label)).below

    def _derived(self, label: str) -> bytes:
        return hmac.new(self.key, _PURPOSE + label.encode(), hashlib.sha256).digest()


class _Stream:
    """Bytes of one label, and integers from them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._bytes, self._place, self._num_blocks = b"", 0, 0

    def below(self, bound: int) -> int:
        num_bits = (bound - 1).bit_length()
        while True:  # a draw is kept with probability 1/2 or more
            drawn = self._take((num_bits + 7) // 8) >> (-num_bits % 8)
            if drawn < bound:
                return drawn

    def _take(self, size: int) -> int:
        while len(self._bytes) - self._place < size:
            block = self._key + self._num_blocks.to_bytes(8, "big")
            self._num_blocks += 1
            left = self._bytes[self._place :]
            self._bytes, self._place = left + hashlib.shake_256(block).digest(_BLOCK_BYTES), 0
        found = self._bytes[self._place : self._place + size]
        self._place += size
        return int.from_bytes(found, "big")
