"""How deep a U-Net is, where it halves and with which kernels: nnU-Net's rule.

Axes are D, H, W, or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from fedward.common.errors import ConfigError

MIN_SIDE = 4
"""Voxels along an axis below which it is not halved again."""
LONGER = 2.0
"""A voxel this much longer along one axis than along another: that axis waits."""
MIN_LEVELS = 3
"""Of MONAI's DynUNet."""

PerLevel = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Topology:
    """Kernels and strides per level, from full resolution down."""

    kernels: PerLevel
    strides: PerLevel
    """On the way into each level; 1 along all axes of the first."""

    @classmethod
    def of(cls, size: Sequence[int], spacing_mm: Sequence[float]) -> "Topology":
        """Return the topology for patches of `size` voxels of `spacing_mm`.

        An axis is halved while at least 4 voxels are left of it, unless its voxels are twice as
        long as others'; kernels are 1 along it until it is no longer so.

        Raises:
            ConfigError: the patches are too small for three levels.

        Source: Isensee et al. 2021, Nature Methods 18:203, supplementary note 2.
        """
        side, length = list(size), list(spacing_mm)
        kernels, strides = [_kernel(length)], [(1,) * len(side)]
        while axes := _axes_to_halve(side, length):
            strides.append(tuple(2 if axis in axes else 1 for axis in range(len(side))))
            for axis in axes:
                side[axis], length[axis] = ceil(side[axis] / 2), 2 * length[axis]
            wide = zip(_kernel(length), kernels[-1], strict=True)
            kernels.append(tuple(max(pair) for pair in wide))
        if len(kernels) < MIN_LEVELS:
            raise ConfigError(
                f"data.image.size: {list(size)} is too small for nnunet, which halves it at least "
                f"twice and keeps {MIN_SIDE}; expected 16 or more"
            )
        kernels[-1] = (3,) * len(side)
        return cls(tuple(kernels), tuple(strides))

    def check(self, num_axes: int) -> None:
        """Raise a ConfigError unless a network with `num_axes` axes can be built like this."""
        if len(self.kernels) != len(self.strides) or len(self.kernels) < MIN_LEVELS:
            raise ConfigError(
                f"model.kernels: {len(self.kernels)} levels and {len(self.strides)} strides; "
                f"expected as many of both, and at least {MIN_LEVELS}"
            )
        for name, levels in (("kernels", self.kernels), ("strides", self.strides)):
            if any(len(level) != num_axes for level in levels):
                raise ConfigError(f"model.{name}: expected {num_axes} figures per level")
        if any(figure % 2 == 0 for level in self.kernels for figure in level):
            raise ConfigError("model.kernels: expected odd figures")
        if prod(self.strides[0]) != 1:
            raise ConfigError("model.strides: the first level is full resolution; expected ones")

    @property
    def divisors(self) -> tuple[int, ...]:
        """What the sides of a patch must be multiples of."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True))

    def fitted(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return `size` enlarged to the next multiples of `divisors`."""
        return tuple(
            ceil(side / step) * step for side, step in zip(size, self.divisors, strict=True)
        )


def _axes_to_halve(side: Sequence[int], length: Sequence[float]) -> list[int]:
    axes = [axis for axis in range(len(side)) if side[axis] >= 2 * MIN_SIDE]
    if not axes:
        return []
    shortest = min(length[axis] for axis in axes)
    axes = [axis for axis in axes if length[axis] / shortest < LONGER]
    # One axis alone is halved only where it is still long: nnU-Net's exception.
    if len(axes) == 1 and side[axes[0]] < 3 * MIN_SIDE:
        return []
    return axes


def _kernel(length: Sequence[float]) -> tuple[int, ...]:
    return tuple(3 if one / min(length) < LONGER else 1 for one in length)
