"""Where the noise of differential privacy, and the draw of patients, come from.

Whoever can predict the noise can take it off again, so a hospital draws it from AES-256 in counter
mode, under a key of the operating system that is never stored. A seed is for simulations and tests:
the claim of such a run says that whoever knows the seed knows the noise.

Normals are made by Box and Muller's method in float64 from 53-bit uniforms. They end at 8.57
standard deviations, which is where the tail has 1e-17 left. No step of it rejects, so that its time
does not depend on what is drawn.

Not covered: attacks on floating point. Which floats a noised sum can take depends on the sum
(Mironov 2012, doi:10.1145/2382196.2382264; for Gaussian noise Holohan and Braghin 2021,
arXiv:2107.10138), and DP-SGD in floating point, this one as every other, does not hide that.
"""

import math
import os
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

BLOCK = 2**14
"""Normals that are made at once: a draw costs 0.1 ms however small it is."""
_BITS = 53
_KEY_BYTES, _COUNTER_BYTES, _CIPHER_BLOCK_BYTES = 32, 16, 16


class NoiseSource(Protocol):
    """A stream of random numbers; each is given out once."""

    is_secret: bool
    """Whether nobody can know the numbers; False where they follow from a seed."""

    def normals(self, count: int) -> Tensor:
        """Return (count,) independent standard normals on the CPU; never to be written to."""

    def uniforms(self, count: int) -> Tensor:
        """Return (count,) independent float64 from 0 to below 1 on the CPU."""


class SecretNoise:
    """Numbers from AES-256-CTR under a fresh key: float64 normals, 14 ms for a million.

    A process that was forked starts a stream of its own, and none can be pickled: two copies would
    give out the same noise, and their difference would have none.

    Args:
        key: 32 bytes, for tests only; a key that is used twice repeats the noise.
    """

    is_secret = True

    def __init__(self, key: bytes | None = None) -> None:
        self._fixed_key = key
        self._start()

    def normals(self, count: int) -> Tensor:
        """Return (count,) independent standard normals, float64."""
        if self._process != os.getpid():
            self._start()
        return self._normals.take(count)

    def uniforms(self, count: int) -> Tensor:
        """Return (count,) independent float64 from 0 to below 1."""
        if self._process != os.getpid():
            self._start()
        return self._integers(count).double().mul_(2.0**-_BITS)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret source of noise is not copied to another process; make a new one")

    def __deepcopy__(self, memo: dict[int, object]) -> NoReturn:
        self.__reduce__()

    def _start(self) -> None:
        key = os.urandom(_KEY_BYTES) if self._fixed_key is None else self._fixed_key
        # A key is used for one stream only, so that the counter may start anywhere.
        counter = modes.CTR(bytes(_COUNTER_BYTES))
        self._encryptor = Cipher(algorithms.AES(key), counter).encryptor()
        self._process = os.getpid()
        self._normals = _Buffer(self._box_muller)

    def _box_muller(self) -> Tensor:
        """Return the next (BLOCK,) standard normals: sqrt(-2 log u) (cos, sin)(2 pi v)."""
        uniform = self._integers(BLOCK).double()
        u, v = uniform[: BLOCK // 2], uniform[BLOCK // 2 :]
        radius = u.add_(1.0).mul_(2.0**-_BITS).log_().mul_(-2.0).sqrt_()  # + 1: never log 0
        angle = v.mul_(2.0 * math.pi * 2.0**-_BITS)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])

    def _integers(self, count: int) -> Tensor:
        """Return (count,) int64 of 53 uniform bits each."""
        raw = torch.from_numpy(self._bytes(8 * count).view(np.int64))
        return raw.bitwise_and_((1 << _BITS) - 1)

    def _bytes(self, count: int) -> npt.NDArray[np.uint8]:
        out = np.empty(count + _CIPHER_BLOCK_BYTES - 1, dtype=np.uint8)  # as `update_into` demands
        self._encryptor.update_into(bytes(count), out.data)
        return out[:count]


class SeededNoise:
    """Numbers from a torch generator, for simulations and tests: predictable by its seed.

    Args:
        generator: on the CPU; nothing else may draw from it.
        dtype: of the normals; float32 is drawn three times as fast.
    """

    is_secret = False

    def __init__(self, generator: torch.Generator, *, dtype: torch.dtype = torch.float32) -> None:
        self._generator = generator
        self._dtype = dtype
        self._buffer = _Buffer(self._block)

    def normals(self, count: int) -> Tensor:
        """Return (count,) independent standard normals."""
        return self._buffer.take(count)

    def uniforms(self, count: int) -> Tensor:
        """Return (count,) independent float64 from 0 to below 1."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def _block(self) -> Tensor:
        return torch.randn(BLOCK, generator=self._generator, dtype=self._dtype)


class _Draw(Protocol):
    def __call__(self) -> Tensor: ...


class _Buffer:
    """Hands out what is drawn in blocks: the stream does not depend on the sizes asked for."""

    def __init__(self, draw: _Draw) -> None:
        self._draw = draw
        self._left: Tensor | None = None

    def take(self, count: int) -> Tensor:
        pieces: list[Tensor] = []
        missing = count
        while missing or not pieces:
            if self._left is None or not len(self._left):
                self._left = self._draw()
            piece, self._left = self._left[:missing], self._left[missing:]
            missing -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
