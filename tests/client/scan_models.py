"""Models of images whose answers are known, and a scan with kidneys and stones of known size.

Legend: D, H, W as in a volume; P points.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.client.model_file import TrainedModel, unsigned_header
from fedward.common.config.loader import run_config_from_dict
from fedward.common.tables.encode import statistics_size
from fedward.common.tables.schema import TableSchema, load_schema

WINDOW = (-400.0, 2000.0)
STONE_LEVEL = (350 - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
"""Between tissue and stone, after the window."""
SPACING_MM = (1.5, 0.8, 0.8)
ORIGIN_MM = (-76.0, -50.0, 200.0)
KIDNEYS_MM = ((45.0, 48.0, 40.0), (45.0, 48.0, 112.0))
"""Centres along D, H, W, from the middle of voxel (0, 0, 0)."""
STONES_MM = (((44.0, 49.0, 41.0), 4.0), ((50.0, 47.0, 113.0), 2.5))
"""Centre and radius: one in the right kidney, one in the left."""


def threshold_model(
    schema: str | TableSchema = "ct-stones",
    *,
    task: str = "ct-lesions",
    image: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **own: Any,
) -> TrainedModel:
    """Return a model that thresholds, as if it had been trained."""
    known = load_schema(schema) if isinstance(schema, str) else schema
    shape: dict[str, Any] = {"size": [32, 32, 32], "rows": "lesion", "window": list(WINDOW)}
    config = run_config_from_dict(
        {
            "version": 1,
            "name": "found",
            "seed": 1,
            "task": task,
            "data": {"schema": known.name, "image": {**shape, **(image or {})}, **(data or {})},
            "model": {"name": "tests.client.scan_networks:Threshold", "low": STONE_LEVEL, **own},
            "loss": {"weights": "fixed"},
            "strategy": {"name": "fedavg"},
            "rounds": 1,
            "local": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        }
    )
    empty = TrainedModel(unsigned_header(config, known), {}, None, "global")
    state = empty.study(own_models=True).new_model().state_dict()
    # As if two patients had been seen, in the middle of each range.
    sums = np.zeros(statistics_size(known.fields))
    sums[0] = 2.0
    return TrainedModel(empty.header, state, sums, "global")


def abdomen(seed: int = 0) -> NDArray[np.int16]:
    """Return (D, H, W) HU: a body with two kidneys, a stone in each, and a spine.

    Voxels at a surface hold the share that is inside, as a scanner's do.
    """
    shape = (60, 130, 190)
    place_mm = np.indices(shape) * np.array(SPACING_MM).reshape(3, 1, 1, 1)
    values = np.where(_share(place_mm, (45, 52, 76), (900, 48, 70)) > 0.5, 5.0, -1000.0)
    for centre in KIDNEYS_MM:
        values += 55 * _share(place_mm, centre, (28, 16, 14))
    values += 700 * _share(place_mm, (45, 76, 76), (900, 11, 13))
    for centre, radius in STONES_MM:
        values += 900 * _share(place_mm, centre, (radius, radius, radius))
    noise = np.random.default_rng(seed).normal(0, 4, shape)
    return np.rint(values + noise).astype(np.int16)


def stone_mask() -> NDArray[np.bool_]:
    """Return (D, H, W): voxels of `abdomen` whose middle is in a stone."""
    place_mm = np.indices((60, 130, 190)) * np.array(SPACING_MM).reshape(3, 1, 1, 1)
    parts = [_share(place_mm, centre, (radius,) * 3) >= 0.5 for centre, radius in STONES_MM]
    return np.asarray(np.logical_or.reduce(parts))


def _share(place_mm: NDArray[np.float64], centre: Any, radii: Any) -> NDArray[np.float64]:
    """Return how much of each voxel is inside an ellipsoid, from 4 x 4 x 4 points of it."""
    centre, radii = (np.array(one, dtype=np.float64).reshape(3, 1, 1, 1) for one in (centre, radii))
    inside = np.zeros(place_mm.shape[1:])
    steps = (np.arange(4) + 0.5) / 4 - 0.5
    near = (((place_mm - centre) / (radii + 2)) ** 2).sum(0) < 1
    points = place_mm[:, near]
    share = np.zeros(points.shape[1])
    for d in steps:
        for h in steps:
            for w in steps:
                shift = (np.array([d, h, w]) * SPACING_MM).reshape(3, 1)
                off = (points + shift - centre.reshape(3, 1)) / radii.reshape(3, 1)
                share += ((off**2).sum(0) < 1) / 64
    inside[near] = share
    return inside
