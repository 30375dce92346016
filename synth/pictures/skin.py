"""Phantoms of dermoscopic pictures: a spot of the skin, its outline and its kind.

Kinds differ in what a dermatologist looks at (the ABCD rule: asymmetry, border, colour; and what
keratoses are known by: a sharp border, a grainy surface), each trait overlapping between them. Size
and depth of colour tell nothing. Grey, since a network here sees one channel.

Source: ours; shares of the kinds as in ISIC 2017 (Codella et al. 2018, arXiv:1710.05006).

Legend: N pictures; Y, X rows and columns.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from fedward.synth.pictures.drawing import (
    Bytes,
    Floats,
    Patient,
    as_bytes,
    positions,
    smooth_field,
    step,
)

CLASSES = ("nevus", "melanoma", "seborrheic keratosis")
SHARES = (0.69, 0.19, 0.12)
STRUCTURES = ("lesion",)
_WAVES = np.arange(2, 12)
_NUM_GRAINS = 40


@dataclass(frozen=True)
class Camera:
    """What differs between the cameras of two sites."""

    name: str
    gain: float
    """Brightness of all grey values."""
    contrast: float
    """How far grey values are from the middle one."""
    noise: float
    """Standard deviation, in grey values."""
    vignette: float
    """How much darker the corners are, 0 to 1."""
    hairs: float
    """Mean number of hairs in a picture."""


CAMERAS = (
    Camera("contact", 1.0, 1.0, 4.0, 0.15, 1.0),
    Camera("bright", 1.12, 0.85, 5.0, 0.05, 2.0),
    Camera("tube", 0.95, 1.1, 6.0, 0.7, 1.0),
    Camera("telephone", 0.85, 0.9, 9.0, 0.35, 3.0),
)


@dataclass(frozen=True)
class Traits:
    """What a spot looks like, in standard deviations of all nevi's round a class's mean."""

    border: float
    """How ragged and lopsided the outline is."""
    tone: float
    """How much the tone varies inside."""
    grain: float
    """Dark and bright grains of horn."""
    edge: float
    """How sharply it stands out from the skin."""


MEANS = (
    Traits(border=-0.7, tone=-0.7, grain=-0.7, edge=-0.3),
    Traits(border=1.2, tone=1.2, grain=-0.5, edge=0.0),
    Traits(border=-0.3, tone=0.0, grain=1.9, edge=1.0),
)


def camera_of(index: int) -> Camera:
    """Return the camera of a cohort's `index`-th site, always the same one.

    Past the fourth they come again, a little noisier.
    """
    turn, which = divmod(index, len(CAMERAS))
    camera = CAMERAS[which]
    if not turn:
        return camera
    return replace(camera, name=f"{camera.name}-{turn + 1}", noise=camera.noise * (1 + 0.15 * turn))


def skin_patient(size: int, camera: Camera, rng: np.random.Generator) -> Patient:
    """Return a patient with one picture.

    Args:
        size: pixels of a side.
        camera: the site's.
        rng: its state decides.
    """
    label = int(rng.choice(len(CLASSES), p=SHARES))
    means = asdict(MEANS[label])
    traits = Traits(**{name: float(rng.normal(mean)) for name, mean in means.items()})
    skin_YX = _skin(size, rng)
    outside_YX, radius = _outline(size, traits.border, rng)
    grey_YX = _with_spot(skin_YX, outside_YX, traits, rng)
    grey_YX = _with_hairs(grey_YX, int(rng.poisson(camera.hairs)), rng)
    picture_YX = _photographed(grey_YX, camera, rng)
    mask_YX = (outside_YX < 0).astype(np.uint8)
    truth = {"traits": asdict(traits), "radius": radius}
    return Patient(picture_YX[None], mask_YX[None], (label,), truth)


def _skin(size: int, rng: np.random.Generator) -> Floats:
    """Return plain skin: a tone, shading, and its fine relief."""
    tone = rng.normal(185, 11)
    shading_YX = 6 * smooth_field(rng, size, knots=3)
    return np.asarray(tone + shading_YX + 4 * smooth_field(rng, size, knots=28))


def _outline(size: int, border: float, rng: np.random.Generator) -> tuple[Floats, float]:
    """Return the distance to the outline, below 0 inside, and the mean radius of the spot."""
    y, x = positions(size)
    centre = rng.normal(0, 0.1, 2)
    turn, ratio = rng.uniform(0, np.pi), rng.uniform(0.75, 1)
    radius = float(np.clip(np.exp(rng.normal(np.log(0.5), 0.18)), 0.3, 0.72))
    dy, dx = y - centre[0], x - centre[1]
    along = (np.cos(turn) * dx + np.sin(turn) * dy) * np.sqrt(ratio)
    across = (np.cos(turn) * dy - np.sin(turn) * dx) / np.sqrt(ratio)
    angle_YX = np.arctan2(across, along)
    ragged = 0.08 * np.exp(0.7 * border)
    height = ragged * rng.standard_normal(len(_WAVES)) / _WAVES**0.6
    phase = rng.uniform(0, 2 * np.pi, len(_WAVES))
    waves_YX = sum(
        h * np.cos(k * angle_YX + p) for h, k, p in zip(height, _WAVES, phase, strict=True)
    )
    return np.hypot(along, across) - radius * np.clip(1 + waves_YX, 0.35, 1.6), radius


def _with_spot(
    skin_YX: Floats, outside_YX: Floats, traits: Traits, rng: np.random.Generator
) -> Floats:
    """Return the skin with the spot on it."""
    size = len(skin_YX)
    y, x = positions(size)
    depth = rng.normal(72, 11)
    turn = rng.uniform(0, 2 * np.pi)
    patches_YX = smooth_field(rng, size, knots=7) + 1.2 * (np.cos(turn) * x + np.sin(turn) * y)
    darkness_YX = depth + 11 * np.exp(0.75 * traits.tone) * patches_YX
    for _ in range(_NUM_GRAINS):
        centre, sign = rng.uniform(-0.75, 0.75, 2), rng.choice([-1, 1])
        width = rng.uniform(0.025, 0.055)
        spot_YX = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))
        darkness_YX += sign * 16 * np.exp(0.75 * traits.grain) * spot_YX
    width = 0.16 * np.exp(-0.5 * traits.edge)
    return np.asarray(skin_YX - np.clip(darkness_YX, 8, 160) * step(-outside_YX, width))


def _with_hairs(grey_YX: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return the picture with some thin dark bows across it."""
    y, x = positions(len(grey_YX))
    for _ in range(count):
        turn, shift, bow = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.normal(0, 0.3)
        along = np.cos(turn) * x + np.sin(turn) * y
        across = np.cos(turn) * y - np.sin(turn) * x - shift - bow * along**2
        width = rng.uniform(0.010, 0.018)
        cover_YX = 0.75 * np.exp(-(across**2) / (2 * width**2))
        cover_YX *= step(rng.uniform(0.4, 1.2) - np.abs(along), 0.1)
        grey_YX = grey_YX + cover_YX * (rng.uniform(35, 70) - grey_YX)
    return grey_YX


def _photographed(grey_YX: Floats, camera: Camera, rng: np.random.Generator) -> Bytes:
    """Return what a camera stores; the noise is drawn last, as it depends on the size."""
    y, x = positions(len(grey_YX))
    gain = camera.gain * rng.normal(1, 0.04)
    light_YX = gain * (1 - camera.vignette * np.clip(np.hypot(y, x) - 0.7, 0, None) ** 1.5 / 0.6)
    seen_YX = (128 + camera.contrast * (grey_YX - 128)) * np.clip(light_YX, 0.03, None)
    return as_bytes(seen_YX + camera.noise * rng.standard_normal(seen_YX.shape))
