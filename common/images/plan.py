"""From the fingerprint of a federation to spacing, patch, network and batch: nnU-Net's rules.

Source: Isensee et al. 2021, Nature Methods 18:203, supplementary notes 1 and 2. Ours: medians come
from histograms; the median size after resampling is that of sizes, times that of spacings over the
new one; and memory is counted in activations, as in their code, at the figures below.

Axes are D, H, W, or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from fedward.common.errors import ConfigError
from fedward.common.images.fingerprint import Fingerprint
from fedward.common.images.topology import Topology

GIB = 2**30
DEFAULT_MEMORY_BYTES = 8 * GIB
BYTES_PER_ACTIVATION = {3: DEFAULT_MEMORY_BYTES / 560e6, 2: DEFAULT_MEMORY_BYTES / 85e6}
"""By number of axes: nnU-Net's reference networks, which fill 8 GB at the batch sizes below."""
REFERENCE_BATCH = {3: 2, 2: 12}
START_VOXELS = {3: 256**3, 2: 2048**2}
"""Of the first patch that is tried, before it is cut to the scans and to memory."""
FEATURES, MAX_FEATURES = 32, {3: 320, 2: 512}
NUM_OUTPUTS = 2
"""Of each head, background and one structure."""
ANISOTROPY = 3.0
"""Voxels this much longer along one axis, and so many fewer of them: a finer spacing there."""
MAX_BATCH_SHARE = 0.05
"""Of all voxels of the federation, in one batch."""
MIN_BATCH = 2


@dataclass(frozen=True)
class Plan:
    """What every site trains with."""

    spacing_mm: tuple[float, ...] | None
    """Scans are resampled to this; None where no spacing is known."""
    size: tuple[int, ...]
    """Voxels of a patch."""
    topology: Topology
    batch_size: int
    window: tuple[float, float] | None
    """0.5 and 99.5 % of the structures' intensities; None where there are no masks."""

    @property
    def deep_supervision(self) -> int:
        """How many coarser masks are trained too: all but those of the two lowest levels."""
        return max(len(self.topology.kernels) - 3, 0)

    def as_config(self) -> dict[str, Any]:
        """Return the keys of `run.yaml` that the plan decides, section by section."""
        image: dict[str, Any] = {"size": list(self.size)}
        if self.spacing_mm is not None:
            image["spacing_mm"] = [round(one, 4) for one in self.spacing_mm]
        if self.window is not None:
            image["window"] = [round(one, 1) for one in self.window]
        model = {
            "name": "nnunet",
            "kernels": [list(level) for level in self.topology.kernels],
            "strides": [list(level) for level in self.topology.strides],
            "deep_supervision": self.deep_supervision,
        }
        return {
            "data": {"image": {**image, "augment": "full"}},
            "loss": {"segmentation": "dice-ce"},
            "model": model,
            "local": {"batch_size": self.batch_size},
        }


def plan_of(fingerprint: Fingerprint, *, memory_bytes: float = DEFAULT_MEMORY_BYTES) -> Plan:
    """Return the plan for scans with this `fingerprint`.

    Args:
        fingerprint: of all sites together.
        memory_bytes: of the smallest accelerator that will train; patch and batch fit into it.

    Raises:
        ConfigError: the scans or the memory are too small for a network of three levels.
    """
    num_axes = len(fingerprint.size)
    spacing_mm = _spacing(fingerprint)
    median = _resampled(fingerprint, spacing_mm)
    shape = spacing_mm or (1.0,) * num_axes
    size = tuple(
        max(1, min(round(start), round(side)))
        for start, side in zip(_first_patch(shape), median, strict=True)
    )
    budget = memory_bytes / BYTES_PER_ACTIVATION[num_axes]
    topology = Topology.of(size, shape)
    size = topology.fitted(size)
    while num_activations(size, topology) > budget:
        size, topology = _smaller(size, shape, median=median)
    most = MAX_BATCH_SHARE * max(fingerprint.num_patients, 1) * prod(median) / prod(size)
    fitting = REFERENCE_BATCH[num_axes] * budget / num_activations(size, topology)
    batch_size = max(MIN_BATCH, int(min(fitting, most)))
    found = fingerprint.intensity
    window = (found.low, found.high) if found is not None and found.low < found.high else None
    return Plan(spacing_mm, size, topology, batch_size, window)


def num_activations(size: Sequence[int], topology: Topology) -> float:
    """Return the values that one patch leaves in the feature maps of the network.

    Two convolutions per level on the way down; two, the transposed one and a head on the way up.
    """
    num_axes, total, voxels = len(size), 0.0, float(prod(size))
    last = len(topology.strides) - 1
    for level, stride in enumerate(topology.strides):
        voxels /= prod(stride)
        features = min(FEATURES * 2**level, MAX_FEATURES[num_axes])
        total += voxels * (2 * features if level == last else 5 * features + NUM_OUTPUTS)
    return total


def _spacing(fingerprint: Fingerprint) -> tuple[float, ...] | None:
    """Return the median spacing, finer along an axis of few long voxels."""
    spacing_mm, fine = fingerprint.spacing_mm, fingerprint.fine_spacing_mm
    if spacing_mm is None or fine is None:
        return None
    worst = max(range(len(spacing_mm)), key=lambda axis: spacing_mm[axis])
    others = [axis for axis in range(len(spacing_mm)) if axis != worst]
    longest = max(spacing_mm[axis] for axis in others)
    fewest = min(fingerprint.size[axis] for axis in others)
    is_long = spacing_mm[worst] > ANISOTROPY * longest
    if not is_long or fingerprint.size[worst] * ANISOTROPY >= fewest:
        return spacing_mm
    finer = max(fine[worst], longest)
    return tuple(finer if axis == worst else one for axis, one in enumerate(spacing_mm))


def _resampled(fingerprint: Fingerprint, spacing_mm: tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the median size in voxels of `spacing_mm`."""
    if spacing_mm is None or fingerprint.spacing_mm is None:
        return fingerprint.size
    return tuple(
        side * old / new
        for side, old, new in zip(fingerprint.size, fingerprint.spacing_mm, spacing_mm, strict=True)
    )


def _first_patch(spacing_mm: Sequence[float]) -> list[float]:
    """Return a patch as long as wide in mm, with the voxels of the first one tried."""
    per_mm = [1.0 / one for one in spacing_mm]
    scale = (START_VOXELS[len(per_mm)] / prod(per_mm)) ** (1.0 / len(per_mm))
    return [scale * one for one in per_mm]


def _smaller(
    size: Sequence[int], spacing_mm: Sequence[float], *, median: Sequence[float]
) -> tuple[tuple[int, ...], Topology]:
    """Return the next smaller patch: a step less of the axis that covers most of its scans."""
    axis = max(range(len(size)), key=lambda place: size[place] / median[place])
    divisor = Topology.of(size, spacing_mm).divisors[axis]
    if size[axis] <= divisor:
        raise ConfigError(
            f"memory_bytes: too little for patches of {list(size)}, which cannot be cut further"
        )
    cut = [side - divisor if place == axis else side for place, side in enumerate(size)]
    topology = Topology.of(cut, spacing_mm)
    return topology.fitted(cut), topology
