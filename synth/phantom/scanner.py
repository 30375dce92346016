"""What a scanner makes of an anatomy: blur, noise, a small bias.

Legend: D slices, H rows, W columns.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from fedward.synth.phantom.fields import Floats

LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0
"""Of twelve bits with an intercept of -1024."""
_SIGMA_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Scanner:
    """What differs between the scanners of two sites."""

    name: str
    """For tables and headers, for example "standard-1.0"; tells nothing about a patient."""
    kernel: str
    """Name of the reconstruction kernel, for DICOM's ConvolutionKernel."""
    slice_mm: float
    """Thickness of a slice and distance between two of them, 1 to 5 mm."""
    pixel_mm: float
    """Distance of two pixels within a slice, .6 to 1 mm."""
    blur_mm: float
    """Full width at half maximum of the point-spread function within a slice."""
    noise_hu: float
    """Standard deviation of the noise in the middle of a body, at slices of 1 mm."""
    noise_grain_mm: float
    """Size of the noise's grain: large for smooth kernels, small for sharp ones."""
    bias_hu: float
    """Constant error of all values but air's, a few HU."""
    streak_hu: float = 2.0
    """Standard deviation of horizontal streaks, as between dense bones."""
    kvp: float = 120.0
    """Peak tube voltage; the published values of stones that are used here are for 120 kVp."""


SCANNERS = (
    Scanner("standard-1.0", "standard", 1.0, 0.80, 1.1, 20.0, 1.1, 0.0),
    Scanner("smooth-2.0", "smooth", 2.0, 0.72, 1.5, 24.0, 1.6, 4.0),
    Scanner("sharp-1.25", "sharp", 1.25, 0.86, 0.8, 30.0, 0.6, -5.0),
    Scanner("standard-3.0", "standard", 3.0, 0.78, 1.2, 26.0, 1.0, 7.0),
    Scanner("low-dose-1.5", "smooth", 1.5, 0.90, 1.4, 38.0, 1.5, -7.0, 4.0),
    Scanner("standard-5.0", "standard", 5.0, 0.74, 1.1, 26.0, 1.0, 3.0),
)


def scanner_of(index: int) -> Scanner:
    """Return the scanner of a cohort's `index`-th site (0, 1, 2 ...), always the same one.

    Past the sixth they come again with another dose and another bias.
    """
    turn, which = divmod(index, len(SCANNERS))
    scanner = SCANNERS[which]
    if turn == 0:
        return scanner
    return replace(
        scanner,
        name=f"{scanner.name}-{turn + 1}",
        noise_hu=scanner.noise_hu * (1 + 0.12 * (turn % 3)),
        bias_hu=scanner.bias_hu + (3.0 if turn % 2 else -3.0),
    )


def blurred(values_DHW: Floats, scanner: Scanner) -> Floats:
    """Return values with the point-spread function within slices."""
    sigma = scanner.blur_mm * _SIGMA_PER_FWHM / scanner.pixel_mm
    for axis in (1, 2):
        values_DHW = gaussian_filter1d(values_DHW, sigma, axis=axis, mode="nearest", truncate=3)
    return values_DHW


def read_out(hu_DHW: Floats, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return what a scanner stores: with noise and bias, rounded, within twelve bits.

    Args:
        hu_DHW: on the scanner's slices and pixels, already blurred; changed in place.
        scanner: noise falls with the root of the slice's thickness.
        rng: its state decides.

    Source: ours. Noise is normal, correlated within a slice over about the kernel's grain and not
    between slices; sharp kernels have less power at low frequencies.
    """
    # No bias in air, as a scanner is calibrated there too.
    hu_DHW += np.float32(scanner.bias_hu) * np.clip(hu_DHW / 1000 + 1, 0, 1)
    strength = scanner.noise_hu / np.sqrt(scanner.slice_mm)
    hu_DHW += np.float32(strength) * _grain(hu_DHW.shape, scanner, rng)
    if scanner.streak_hu:
        streaks = rng.standard_normal(hu_DHW.shape, dtype=np.float32)
        streaks = gaussian_filter1d(streaks, 1.0, axis=1, truncate=2)
        streaks = gaussian_filter1d(streaks, 12 / scanner.pixel_mm, axis=2, truncate=2)
        hu_DHW += streaks * np.float32(scanner.streak_hu / max(float(streaks.std()), 1e-6))
    np.clip(hu_DHW, LOWEST_HU, HIGHEST_HU, out=hu_DHW)
    return np.asarray(np.rint(hu_DHW), dtype=np.int16)


def _grain(shape: tuple[int, ...], scanner: Scanner, rng: np.random.Generator) -> Floats:
    """Return noise with mean 0 and standard deviation 1."""
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = scanner.noise_grain_mm * _SIGMA_PER_FWHM / scanner.pixel_mm
    grain = gaussian_filter1d(gaussian_filter1d(white, sigma, axis=1), sigma, axis=2)
    if scanner.kernel == "sharp":
        wide = 3 * sigma + 0.5
        low = gaussian_filter1d(gaussian_filter1d(white, wide, axis=1), wide, axis=2)
        grain -= np.float32(0.8) * low
    return np.asarray(grain / max(float(grain.std()), 1e-6), dtype=np.float32)
