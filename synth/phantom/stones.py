"""Urinary stones: composition, size, shape, values, texture and place.

Legend: D, H, W voxels of a grid; L lobes; 3 coordinates z, y, x in mm; P points.

Mean values at 120 kVp, by composition, after the ranges of 199 operated patients ("Role of
Hounsfield unit in predicting results of stone analysis", Adiyaman University,
hdl.handle.net/20.500.12414/4304): calcium oxalate monohydrate 730-1,130 HU, dihydrate 510-810,
uric acid 320-550, struvite 614-870, calcium hydrogen phosphate (brushite) 1,100-1,365, cystine
630-674, uric acid with calcium oxalate 499-840. Carbonate apatite, the second infection stone, is
put below brushite (ours; 650-1,050). Dense stones above 1,020 and radiolucent ones below 590 HU:
African Journal of Urology 2020, doi 10.1186/s12301-020-00080-3. How much a stone's inside varies is
ours: calcium oxalate monohydrate ranges from homogeneous to lobulated with voids (Zarse et al.
2007, PMC2408919); infection stones are laminated round a core of organic matrix.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from fedward.synth.phantom.fields import Floats, Grid, Point, SmoothField, smooth_field
from fedward.synth.phantom.lesions import own_grid

SMALLEST_MM = 4.0


@dataclass(frozen=True)
class Composition:
    """What stones of one mineral are like."""

    name: str
    share: float
    """Among the infectious, or among the others."""
    mean_hu: float
    spread_hu: float
    """Standard deviation of `mean_hu` between stones."""
    texture: float
    """Standard deviation within a stone, as a share of its mean."""
    roughness: float
    """Height of the bumps of its surface, as a share of its radius."""
    laminated: float
    """How much of the texture is shells, 0 to 1; the rest is patches."""
    infectious: bool = False


COMPOSITIONS = (
    Composition("struvite", 0.8, 725, 80, 0.17, 0.08, 0.75, infectious=True),
    Composition("carbonate-apatite", 0.2, 830, 90, 0.16, 0.08, 0.75, infectious=True),
    Composition("calcium-oxalate-monohydrate", 0.64, 960, 105, 0.10, 0.07, 0.2),
    Composition("calcium-oxalate-dihydrate", 0.08, 700, 80, 0.13, 0.12, 0.1),
    Composition("uric-acid", 0.06, 430, 55, 0.06, 0.05, 0.2),
    Composition("uric-acid-calcium-oxalate", 0.04, 670, 85, 0.14, 0.07, 0.3),
    Composition("brushite", 0.16, 1230, 70, 0.10, 0.07, 0.2),
    Composition("cystine", 0.02, 650, 35, 0.06, 0.05, 0.0),
)


@dataclass(frozen=True, repr=False)
class Stone:
    """One stone, round the origin until it is placed."""

    composition: Composition
    centre: Point
    lobes_L: tuple[tuple[Point, Point], ...]
    """Centre and radii of each lobe in the stone's own frame."""
    turn: Rotation
    bumps: SmoothField
    patches: SmoothField
    mean_hu: float
    texture: float
    shell_mm: float
    """From one lamina to the next."""
    texture_mean: float = 0.0
    texture_sd: float = 1.0
    reach_mm: float = 0.0
    """No point of it is farther from its centre."""

    def on(self, grid: Grid) -> tuple[Floats, Floats]:
        """Return (D, H, W) whether each point is stone (0 or 1), and what stone holds there, HU."""
        level, away = _level(self, grid)
        texture = (_texture(self, grid, level, away) - self.texture_mean) / self.texture_sd
        hu = np.float32(self.mean_hu) * (1 + np.float32(self.texture) * texture)
        return np.asarray(level < 1, dtype=np.float32), np.clip(hu, 80, 2400).astype(np.float32)


def draw_composition(rng: np.random.Generator, *, infectious: bool) -> Composition:
    """Return one of the compositions that infection makes, or one of the others."""
    choices = [item for item in COMPOSITIONS if item.infectious == infectious]
    shares = np.asarray([item.share for item in choices])
    return choices[int(rng.choice(len(choices), p=shares / shares.sum()))]


def draw_diameter_mm(rng: np.random.Generator, composition: Composition, largest: float) -> float:
    """Return a stone's size: infection stones grow faster (they make most staghorns).

    Source of the sizes: ours; operated stones, so mostly 5 to 20 mm.
    """
    median = 12.5 if composition.infectious else 11.0
    return float(np.clip(rng.lognormal(np.log(median), 0.33), SMALLEST_MM + 0.5, largest))


def draw_stone(  # noqa: PLR0913 - what a stone is made of, how large, and its two forms
    rng: np.random.Generator,
    composition: Composition,
    *,
    centre: Point,
    diameter_mm: float,
    branched: bool = False,
    upright: bool = False,
) -> Stone:
    """Return a stone.

    Args:
        rng: its state decides.
        composition: decides over values, texture and surface.
        centre: where.
        diameter_mm: about its longest diameter; the exact one is measured.
        branched: lobes reach into the calyces (a staghorn).
        upright: longer along the body, as stones in a ureter are.
    """
    lobes, turn = _lobes(rng, diameter_mm, branched=branched, upright=upright)
    reach = max(
        float(np.linalg.norm(place)) + max(radii) for place, radii in lobes
    ) * (1 + 3 * composition.roughness) + 1.5  # fmt: skip
    z, y, x = centre
    far = reach + 1
    low, high = (z - far, y - far, x - far), (z + far, y + far, x + far)
    stone = Stone(
        composition, centre, lobes, turn,
        bumps=smooth_field(rng, low, high, period_mm=max(1.2, 0.16 * diameter_mm)),
        patches=smooth_field(rng, low, high, period_mm=max(1.2, 0.14 * diameter_mm)),
        mean_hu=float(np.clip(rng.normal(composition.mean_hu, composition.spread_hu), 250, 1700)),
        texture=composition.texture * float(rng.lognormal(0, 0.35)),
        shell_mm=float(rng.uniform(0.28, 0.42)) * max(diameter_mm, 7.0) / 1.6,
        reach_mm=reach,
    )  # fmt: skip
    return _normalised(stone)


def _lobes(
    rng: np.random.Generator, diameter_mm: float, *, branched: bool, upright: bool
) -> tuple[tuple[tuple[Point, Point], ...], Rotation]:
    half = diameter_mm / 2
    flat = rng.uniform(0.62, 0.95, size=2)
    turn = Rotation.random(rng=rng)
    if upright:
        turn = Rotation.from_rotvec(rng.normal(0, 0.25, size=3))
    if not branched:
        return (((0.0, 0.0, 0.0), (half, half * flat[0], half * flat[1])),), turn
    lobes: list[tuple[Point, Point]] = [((0.0, 0.0, 0.0), (half * 0.45, half * 0.36, half * 0.42))]
    for number in range(3):
        angle = (number - 1) * 0.95 + float(rng.normal(0, 0.12))
        away = half * 0.62
        place = (away * float(np.sin(angle)), 0.0, away * float(np.cos(angle)) * 0.8)
        size = half * float(rng.uniform(0.3, 0.4))
        lobes.append((place, (size, size * 0.8, size * 1.1)))
        between = (place[0] / 2, 0.0, place[2] / 2)
        lobes.append((between, (size * 0.8, size * 0.65, size * 0.9)))
    # The arms point outwards: to the patient's left or right, by the side of the kidney.
    facing = 1.0 if rng.random() < 0.5 else -1.0
    turned = [((p[0], p[1], facing * p[2]), r) for p, r in lobes]
    return tuple(turned), Rotation.from_rotvec(rng.normal(0, 0.2, size=3))


def _level(stone: Stone, grid: Grid) -> tuple[Floats, Floats]:
    """Return (D, H, W) level (below 1 inside) and distance to the centre, mm."""
    matrix = stone.turn.as_matrix().astype(np.float32)
    dz = (grid.z_mm - np.float32(stone.centre[0]))[:, None, None]
    dy = (grid.y_mm - np.float32(stone.centre[1]))[None, :, None]
    dx = (grid.x_mm - np.float32(stone.centre[2]))[None, None, :]
    own = [matrix[i, 0] * dz + matrix[i, 1] * dy + matrix[i, 2] * dx for i in range(3)]
    nearest = np.full(grid.shape, np.inf, dtype=np.float32)
    for place, radii in stone.lobes_L:
        squared = np.zeros(grid.shape, dtype=np.float32)
        for i in range(3):
            squared += ((own[i] - np.float32(place[i])) / np.float32(radii[i])) ** 2
        np.minimum(nearest, squared, out=nearest)
    level = np.sqrt(nearest)
    level *= 1 + np.float32(stone.composition.roughness) * np.clip(stone.bumps.on(grid), -2, 2)
    return level, np.sqrt(dz**2 + dy**2 + dx**2)


def _texture(stone: Stone, grid: Grid, level_DHW: Floats, away_DHW: Floats) -> Floats:
    shells = np.sin(np.float32(2 * np.pi / stone.shell_mm) * away_DHW)
    core = np.float32(4.5) * (np.clip(level_DHW, 0, 1) - np.float32(0.7))
    part = np.float32(stone.composition.laminated)
    return np.asarray(
        part * (shells + core) + (1 - part) * stone.patches.on(grid), dtype=np.float32
    )


def _normalised(stone: Stone) -> Stone:
    grid, _ = own_grid(stone.centre, stone.reach_mm)
    level, away = _level(stone, grid)
    inside = _texture(stone, grid, level, away)[level < 1]
    return replace(stone, texture_mean=float(inside.mean()), texture_sd=float(inside.std()))
