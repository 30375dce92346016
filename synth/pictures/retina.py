"""Phantoms of optical coherence tomography: B-scans of a retina with fluid in and under it.

A patient is a volume of B-scans through the same pockets of fluid: within the retina (IRF), below
it (SRF), and below its pigment epithelium (PED). Drusen, which are no fluid, lift the same layer a
little; shadows of vessels cut through all of them.

Source: ours; kinds of fluid and vendors as in RETOUCH (Bogunovic et al. 2019, IEEE TMI 38:1858).

Legend: N B-scans; Y depth, X width.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy import ndimage

from fedward.synth.pictures.drawing import (
    Bytes,
    Floats,
    Patient,
    as_bytes,
    positions,
    smooth_field,
    step,
)

CLASSES = ("dry", "wet")
STRUCTURES = ("IRF", "SRF", "PED")
_PLACES = (-0.75, -0.25, 0.25, 0.75)
"""Of the B-scans across the volume."""
_DRUSEN = "drusen"
_LEAST = 0.035
"""Height of a pocket below which a B-scan does not show it, as a share of the picture."""
_LAYERS = (0.0, 0.02, 0.12, 0.16, 0.38, 0.42, 0.50, 0.53, 0.59, 0.63, 1.0)
_BRIGHT = (0.30, 0.80, 0.78, 0.55, 0.53, 0.36, 0.36, 0.60, 0.58, 0.31, 0.29)
"""From the vitreous to the photoreceptors: nerve fibres, ganglion cells, and so on."""


@dataclass(frozen=True)
class Tomograph:
    """What differs between the scanners of two vendors."""

    name: str
    speckle: float
    """Of a grey value, as a share of it."""
    noise: float
    """Standard deviation, in grey values."""
    contrast: float
    gamma: float
    blur: tuple[float, float]
    """Along depth and width, in 1/100 of the picture."""


TOMOGRAPHS = (
    Tomograph("averaged", 0.16, 5.0, 1.0, 1.0, (0.5, 0.6)),
    Tomograph("fast", 0.26, 9.0, 0.85, 0.8, (0.8, 1.0)),
    Tomograph("soft", 0.26, 8.0, 0.75, 1.25, (1.4, 1.6)),
)


@dataclass(frozen=True)
class Pocket:
    """A pocket of fluid, or a druse: where it is and how far it reaches, in units of the picture.

    `x` and `z` run from -1 to 1; `height` is a share of the picture at its highest point, and
    `level` the share of the retina above an IRF.
    """

    kind: str
    x: float
    z: float
    half_width: float
    half_depth: float
    height: float
    level: float = 0.0

    def at(self, z: float) -> float:
        """Return its height in the B-scan at `z`; 0 where the B-scan does not show it."""
        height = self.height * float(np.sqrt(max(0.0, 1 - ((z - self.z) / self.half_depth) ** 2)))
        return height if height >= _LEAST or self.kind == _DRUSEN else 0.0


@dataclass(frozen=True)
class _Eye:
    depth: float
    tilt: float
    bend: float
    thickness: float
    fovea: float


def tomograph_of(index: int) -> Tomograph:
    """Return the scanner of a cohort's `index`-th site, always the same one.

    Past the third they come again, with a little more speckle.
    """
    turn, which = divmod(index, len(TOMOGRAPHS))
    found = TOMOGRAPHS[which]
    if not turn:
        return found
    return replace(found, name=f"{found.name}-{turn + 1}", speckle=found.speckle * (1 + 0.1 * turn))


def retina_patient(size: int, tomograph: Tomograph, rng: np.random.Generator) -> Patient:
    """Return a patient with a volume of four B-scans; at least one of them shows fluid.

    Args:
        size: pixels of a side.
        tomograph: the site's.
        rng: its state decides.
    """
    eye = _Eye(
        depth=rng.uniform(0.64, 0.74),
        tilt=rng.normal(0, 0.03),
        bend=rng.uniform(-0.07, 0.02),
        thickness=rng.uniform(0.26, 0.33),
        fovea=rng.normal(0, 0.12),
    )
    pockets = [*_pockets(rng), *_drusen(rng)]
    scans = [_scan(size, eye, pockets, z, rng) for z in _PLACES]
    # Pixel noise comes last, as it depends on the size.
    pictures_NYX = np.stack([_scanned(grey_YX, tomograph, rng) for grey_YX, _ in scans])
    masks_NYX = np.stack([mask_YX for _, mask_YX in scans])
    labels = tuple(int(mask_YX.any()) for mask_YX in masks_NYX)
    return Patient(pictures_NYX, masks_NYX, labels, {"pockets": [asdict(one) for one in pockets]})


def _pockets(rng: np.random.Generator) -> list[Pocket]:
    """Return pockets of one kind of fluid at least, the largest of them shown by a B-scan."""
    kinds = [kind for kind in STRUCTURES if rng.random() < 0.5] or [str(rng.choice(STRUCTURES))]
    found: list[Pocket] = []
    for kind in kinds:
        z = float(rng.choice(_PLACES)) + rng.uniform(-0.12, 0.12)
        x, half_depth = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.75)
        if kind == "IRF":
            cysts = int(rng.integers(1, 5))
            found.extend(_cyst(x, z, half_depth, rng) for _ in range(cysts))
        else:
            half_width, height = rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.16)
            found.append(Pocket(kind, x, z, half_width, half_depth, height))
    return found


def _cyst(x: float, z: float, half_depth: float, rng: np.random.Generator) -> Pocket:
    return Pocket(
        "IRF",
        x=x + rng.normal(0, 0.18),
        z=z,
        half_width=rng.uniform(0.09, 0.2),
        half_depth=half_depth,
        height=rng.uniform(0.08, 0.16),
        level=rng.uniform(0.35, 0.75),
    )


def _drusen(rng: np.random.Generator) -> Iterable[Pocket]:
    for _ in range(rng.poisson(5)):
        x, z = rng.uniform(-0.9, 0.9), rng.uniform(-1, 1)
        yield Pocket(_DRUSEN, x, z, rng.uniform(0.05, 0.1), 0.3, rng.uniform(0.015, 0.04))


def _scan(
    size: int, eye: _Eye, pockets: list[Pocket], z: float, rng: np.random.Generator
) -> tuple[Floats, Bytes]:
    """Return one B-scan before any scanner, 0 to 1, and its mask."""
    y, x = positions(size)
    y = (y + 1) / 2
    wobble = 0.006 * smooth_field(rng, size, knots=6)[:1]
    bruch = eye.depth + rng.normal(0, 0.008) + eye.tilt * x + eye.bend * x**2 + wobble
    lift = {kind: _lift(pockets, kind, x, z) for kind in ("SRF", "PED", _DRUSEN)}
    epithelium = bruch - np.maximum(lift["PED"], lift[_DRUSEN])
    receptors = epithelium - 0.022 - lift["SRF"]
    pit = 0.45 * np.exp(-((x - eye.fovea) ** 2) / 0.05 - z**2 / 0.12)
    top = bruch - 0.03 - eye.thickness * (1 - pit) - 0.7 * (bruch - 0.022 - receptors)
    share_YX = np.clip((y - top) / (receptors - top), 0, 1)
    grey_YX = np.interp(share_YX, _LAYERS, _BRIGHT)
    grey_YX *= 1 + 0.07 * smooth_field(rng, size, knots=20)
    cysts_YX = _cysts(pockets, z, (y, x), (top, receptors))
    grey_YX += (0.10 - grey_YX) * step(-cysts_YX, 0.3)
    vitreous = 0.07
    grey_YX = vitreous + (grey_YX - vitreous) * step(y - top, 0.012)
    below_YX = step(y - receptors, 0.012)
    under_YX = _under(y - epithelium, y - bruch, rng)
    grey_YX += (under_YX - grey_YX) * below_YX
    grey_YX += (0.82 - grey_YX) * np.exp(-(((y - receptors) / 0.008) ** 2))
    grey_YX += (0.97 - grey_YX) * np.exp(-(((y - epithelium) / 0.013) ** 2))
    mask_YX = np.zeros((size, size), dtype=np.uint8)
    mask_YX[(y > receptors + 0.008) & (y < epithelium - 0.012) & (lift["SRF"] > 0)] = 2
    mask_YX[(y > epithelium + 0.012) & (y < bruch) & (lift["PED"] > lift[_DRUSEN])] = 3
    mask_YX[cysts_YX < 0] = 1
    return _shadowed(grey_YX, y, x, top, rng), mask_YX


def _lift(pockets: list[Pocket], kind: str, x: Floats, z: float) -> Floats:
    """Return how far pockets of a kind lift what is above them, (1, size)."""
    lift = np.zeros_like(x)
    for one in pockets:
        if one.kind == kind and (height := one.at(z)):
            dome = np.clip(1 - ((x - one.x) / one.half_width) ** 2, 0, None)
            lift = np.maximum(lift, height * dome)
    return lift


def _cysts(
    pockets: list[Pocket], z: float, place: tuple[Floats, Floats], retina: tuple[Floats, Floats]
) -> Floats:
    """Return (size, size), below 0 inside an IRF and above 0 outside; 1 where there are none.

    Args:
        pockets: of the patient.
        z: of the B-scan.
        place: y and x of the pixels.
        retina: y of its top and of its receptors, between which a cyst stays.
    """
    (y, x), (top, receptors) = place, retina
    found_YX = np.ones((len(y), x.shape[1]))
    for one in pockets:
        if one.kind != "IRF" or not (height := one.at(z)):
            continue
        middle = top + one.level * (receptors - top)
        high = np.minimum(height, 0.8 * (receptors - top))
        radius_YX = np.hypot((x - one.x) / one.half_width, (y - middle) / (high / 2))
        found_YX = np.minimum(found_YX, radius_YX - 1)
    return found_YX


def _under(below_epithelium_YX: Floats, below_bruch_YX: Floats, rng: np.random.Generator) -> Floats:
    """Return what lies below the receptors: clear fluid, cloudy fluid, and the fading choroid."""
    size = len(below_bruch_YX)
    fluid_YX = 0.08 + 0.09 * step(below_epithelium_YX, 0.012)
    fading_YX = 0.55 * np.exp(-np.clip(below_bruch_YX, 0, None) / 0.1) + 0.1
    choroid_YX = fading_YX * (1 + 0.2 * smooth_field(rng, size, knots=12))
    return np.asarray(fluid_YX + (choroid_YX - fluid_YX) * step(below_bruch_YX, 0.012))


def _shadowed(
    grey_YX: Floats, y: Floats, x: Floats, top: Floats, rng: np.random.Generator
) -> Floats:
    """Return a B-scan with the shadows that vessels at the top of the retina cast."""
    for _ in range(rng.poisson(2)):
        width = rng.uniform(0.015, 0.04)
        shadow = rng.uniform(0.3, 0.6) * np.exp(-(((x - rng.uniform(-1, 1)) / width) ** 2))
        grey_YX = grey_YX * (1 - shadow * step(y - top - 0.05, 0.03))
    return grey_YX


def _scanned(grey_YX: Floats, tomograph: Tomograph, rng: np.random.Generator) -> Bytes:
    """Return what a scanner stores: blurred, with its own curve of greys, speckle and noise."""
    size = len(grey_YX)
    blurred_YX = ndimage.gaussian_filter(grey_YX, np.array(tomograph.blur) * size / 100)
    gain = rng.normal(1, 0.05)
    values_YX = 225 * gain * tomograph.contrast * np.clip(blurred_YX, 0, 1) ** tomograph.gamma + 12
    # Speckle reaches a little further across than along the beam.
    grain_YX = ndimage.gaussian_filter(rng.standard_normal((size, size)), (0.3, 0.6)) * 1.5
    speckled_YX = values_YX * (1 + tomograph.speckle * grain_YX)
    return as_bytes(speckled_YX + tomograph.noise * rng.standard_normal((size, size)))
