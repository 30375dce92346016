"""How bright and how large a small, blurred thing truly is: an ellipsoid is fitted to its voxels.

A stone of 4 mm has few voxels, or none, that hold nothing but stone: all their values are too low,
and so is any threshold halfway to the highest of them. The model knows how a voxel averages: an
ellipsoid of one contrast in an even background, blurred within slices by a Gaussian and averaged
over the voxel. Where the voxels leave a question open (how long along slices that are thicker than
the thing?), mild priors answer it: the thing is about as long as wide, the kernel is a common one.
So this is a maximum a-posteriori estimate, by least squares. Ours.

Shapes: D, H, W as in `fedward.common.images.rows`; V voxels.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import least_squares

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SAMPLE_MM = 0.5
"""Distance of the samples that a voxel is averaged over; at most."""
EDGE_MM = 0.25
"""Width over which the model goes from inside to outside, so that it has a gradient."""
BLUR_MM = (0.45, 0.2)
"""Standard deviation of the kernel within slices: the common one, and how far others are off."""
LOG_ASPECT = 0.25
"""How far, in logarithms, a radius commonly is from the mean radius."""
MISFIT = 0.03
"""What the model is wrong by beside the noise, as a share of the contrast."""
MAX_EVALUATIONS = 30


@dataclass(frozen=True)
class Ellipsoid:
    """What was fitted."""

    background: float
    """Value beside it."""
    contrast: float
    """How much brighter it is than that."""
    radii_mm: tuple[float, ...]
    """Semi-axes, the longest first."""

    @property
    def volume_mm3(self) -> float:
        """Its volume, with what the model's soft edge adds to a ball's."""
        squared_mm2 = math.prod(self.radii_mm) ** (2 / 3)
        softness = math.pi**2 / 12 * EDGE_MM**2
        return 4 / 3 * math.pi * math.prod(self.radii_mm) * (1 + 3 * softness / squared_mm2)


def fit_ellipsoid(
    values_DHW: Floats, inside_DHW: Mask, spacing_mm: Floats, *, use_DHW: Mask
) -> Ellipsoid:
    """Return the ellipsoid that explains the values best.

    Args:
        values_DHW: a small box round the thing.
        inside_DHW: where it is, roughly: what the fit starts from; not empty.
        spacing_mm: (3,) of the voxels.
        use_DHW: voxels that count; the others belong to something else. It holds voxels beside
            the thing as well.
    """
    beside = values_DHW[use_DHW & ~inside_DHW]
    background = float(np.median(beside))
    noise = 1.4826 * float(np.median(np.abs(beside - background)))
    top = float(values_DHW[inside_DHW].max()) - background
    scale = math.hypot(noise, MISFIT * top)
    start = _start(values_DHW - background, inside_DHW, spacing_mm)
    model = _Model(values_DHW.shape, spacing_mm)
    target = (values_DHW[use_DHW] - background) / scale

    def residual(parameters: Floats) -> Floats:
        level, gain = parameters[:2] * top / scale
        fraction = model.fractions(parameters)[use_DHW]
        voxels = level + gain * fraction - target
        # Square roots of a robust loss, so that the priors below stay quadratic.
        robust = np.sign(voxels) * np.sqrt(2 * 9 * (np.sqrt(1 + voxels**2 / 9) - 1))
        return np.concatenate([robust, _prior(parameters)])

    lower, upper = _limits(start)
    found = least_squares(
        residual,
        np.clip(start, lower + 1e-6, upper - 1e-6),
        bounds=(lower, upper),
        x_scale=_STEPS,
        diff_step=1e-3,
        max_nfev=MAX_EVALUATIONS,
    ).x
    radii = np.linalg.svd(_axes(found), compute_uv=False)
    return Ellipsoid(
        background + float(found[0]) * top, float(found[1]) * top, tuple(radii.tolist())
    )


# Parameters: level and gain as shares of the highest contrast, blur in mm, centre in mm (3),
# logarithm of the mean radius, then the logarithms of two ratios and three shears.
_STEPS = np.array([0.05, 0.2, 0.2, 0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])


def _start(above_DHW: Floats, inside_DHW: Mask, spacing_mm: Floats) -> Floats:
    points_V3 = np.argwhere(inside_DHW) * spacing_mm
    weight = np.maximum(above_DHW[inside_DHW], 1.0)
    centre = np.average(points_V3, axis=0, weights=weight)
    volume = len(points_V3) * float(np.prod(spacing_mm))
    radius = max(0.5, (volume * 3 / (4 * math.pi)) ** (1 / 3))
    return np.array([0.0, 1.1, BLUR_MM[0], *centre, math.log(radius), 0, 0, 0, 0, 0])


def _limits(start: Floats) -> tuple[Floats, Floats]:
    far = np.array([0.5, 1.5, 0.6, 4, 4, 4, 1.5, 2, 2, 3, 3, 3])
    lower, upper = start - far, start + far
    lower[1:3], upper[1:3] = (0.7, 0.05), (3.0, 1.2)
    return lower, upper


def _prior(parameters: Floats) -> Floats:
    blur = (parameters[2] - BLUR_MM[0]) / BLUR_MM[1]
    a, b = parameters[7:9]
    ratios = np.array([a, b, -a - b]) / LOG_ASPECT
    return np.concatenate([[blur], ratios, parameters[9:12] / LOG_ASPECT / 1.5])


def _axes(parameters: Floats) -> Floats:
    """Return (3, 3) that maps the unit ball onto the ellipsoid, lower triangular."""
    a, b = parameters[7:9]
    matrix = np.diag(np.exp([a, b, -a - b]))
    matrix[[1, 2, 2], [0, 0, 1]] = parameters[9:12]
    return np.asarray(math.exp(parameters[6]) * matrix)


class _Model:
    """The share of each voxel that is inside, for given parameters."""

    def __init__(self, shape: tuple[int, ...], spacing_mm: Floats) -> None:
        self.shape = shape
        self.per_voxel = [max(1, math.ceil(mm / SAMPLE_MM)) for mm in spacing_mm]
        self.step_mm = spacing_mm / np.array(self.per_voxel)
        self.axes = [
            (np.arange(n * k) + 0.5) * step - mm / 2
            for n, k, step, mm in zip(shape, self.per_voxel, self.step_mm, spacing_mm, strict=True)
        ]

    def fractions(self, parameters: Floats) -> Floats:
        """Return (D, H, W) in [0, 1]."""
        inverse = np.linalg.inv(_axes(parameters))
        z, y, x = (axis - centre for axis, centre in zip(self.axes, parameters[3:6], strict=True))
        z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
        # Lower triangular, and so is its inverse.
        u = inverse[0, 0] * z
        v = inverse[1, 0] * z + inverse[1, 1] * y
        w = inverse[2, 0] * z + inverse[2, 1] * y + inverse[2, 2] * x
        squared = u**2 + v**2 + w**2
        slope = (
            (inverse[0, 0] * u + inverse[1, 0] * v + inverse[2, 0] * w) ** 2
            + (inverse[1, 1] * v + inverse[2, 1] * w) ** 2
            + (inverse[2, 2] * w) ** 2
        )
        # To first order, the distance from the surface.
        distance_mm = (squared - np.sqrt(squared)) / np.sqrt(slope + 1e-12)
        share = 0.5 - 0.5 * np.tanh(distance_mm / EDGE_MM)
        for axis in (1, 2):
            sigma = parameters[2] / self.step_mm[axis]
            share = ndimage.gaussian_filter1d(share, sigma, axis, mode="nearest", truncate=3)
        pairs = [length for pair in zip(self.shape, self.per_voxel, strict=True) for length in pair]
        return np.asarray(share.reshape(pairs).mean(axis=(1, 3, 5)))
