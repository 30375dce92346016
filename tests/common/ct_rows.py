"""A small site of images for tests: bright balls in noise, and a class that follows their grey."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedward.common.config.run import RunConfig
from fedward.common.images.rows import HAS, IMAGE, MASK, MODALITIES, SPACING_MM
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.table import Table

SCHEMA = TableSchema.model_validate(
    {
        "version": 1,
        "name": "balls",
        "patient_id": "patient",
        "label": {"column": "bright"},
        "fields": [{"name": "age", "kind": "continuous", "range": [0, 120]}],
        "subgroups": [{"name": "old", "column": "age", "at_least": 60}],
        "image": {"structures": ["ball"], "lesion": "ball"},
        "min_cohort": 1,
    }
)


def config(**changes: Any) -> RunConfig:
    """Return a run over such sites; `changes` replace whole sections."""
    values: dict[str, Any] = {
        "version": 1,
        "name": "balls",
        "seed": 1,
        "task": "ct-lesions",
        "data": data_section(),
        "model": {
            "name": "uscnet",
            "preset": "smoke",
            "hidden": 24,
            "layers": 3,
            "heads": 2,
            "mlp_dim": 48,
            "patch": 8,
            "feature_size": 4,
            "sma_layers": [3],
            "head": [16],
            "head_dropout": [0.0],
        },
        "strategy": {"name": "fedavg"},
        "rounds": 2,
        "local": {"epochs": 1, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.01},
    }
    return RunConfig.model_validate({**values, **changes})


def data_section(**changes: Any) -> dict[str, Any]:
    image = {"size": [16, 16, 16], "window": [-100, 300]}
    return {"schema": "balls", "image": image, "validation_fraction": 0.2, **changes}


class Balls:
    """Patients with one or two rows each.

    Args:
        site_id: names the site and, with `seed`, decides its patients.
        num_patients: how many.
        seed: of the rows.
        lacks: rows with these numbers lack a modality: `{"image": [0]}`.
    """

    def __init__(
        self,
        site_id: str,
        num_patients: int,
        seed: int = 1,
        lacks: Mapping[str, list[int]] = MappingProxyType({}),
    ) -> None:
        self.site_id = site_id
        rng = np.random.default_rng([seed, *site_id.encode()])
        patient = np.repeat(np.arange(num_patients), 1 + np.arange(num_patients) % 2)
        label = (np.arange(num_patients) % 2)[patient]
        grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)
        image = rng.normal(0, 30, (len(patient), 16, 16, 16))
        mask = np.zeros(image.shape, dtype=np.uint8)
        for row, bright in enumerate(label):
            centre, radius = rng.uniform(6, 10, 3), rng.uniform(2.5, 4.5)
            inside = ((grid - centre) ** 2).sum(-1) <= radius**2
            mask[row], image[row][inside] = inside, image[row][inside] + (290 if bright else 90)
        has = {HAS + name: np.ones(len(patient), dtype=bool) for name in MODALITIES}
        for name, rows in lacks.items():
            has[HAS + name][rows] = False
        age = rng.uniform(30, 90, len(patient))
        self._table = Table(
            {"age": np.where(has[HAS + "table"], age, np.nan)},
            label.astype(np.int64),
            patient.astype(np.int64),
            {"old": age >= 60},
            arrays={
                IMAGE: image.astype(np.int16),
                MASK: mask,
                SPACING_MM: np.full((len(patient), 3), 1.0, dtype=np.float32),
                **has,
            },
        )

    def read(self) -> Table:
        return self._table
