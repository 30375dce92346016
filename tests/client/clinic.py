"""A small made-up clinic: its schema and its rows."""

import numpy as np
import pandas as pd

from fedward.common.tables.schema import TableSchema

CLINIC = TableSchema.model_validate(
    {
        "version": 1,
        "name": "clinic",
        "patient_id": "mrn",
        "label": {"column": "died"},
        "fields": [
            {"name": "age", "kind": "continuous", "unit": "years", "range": [0, 120]},
            {"name": "creatinine", "kind": "continuous", "unit": "umol/l", "range": [10, 3000]},
            {
                "name": "chol",
                "kind": "continuous",
                "unit": "mg/dl",
                "range": [50, 900],
                "missing": [0, "refused"],
            },
            {
                "name": "smoker",
                "kind": "categorical",
                "categories": ["never", "former", "current"],
                "missing": ["not asked"],
            },
            {"name": "stage", "kind": "categorical", "categories": [1, 2, 3]},
        ],
        "exclude": ["ward", "site", "hour_of_death"],
        "drop": [{"column": "hour_of_death", "at_most": 9}],
        "subgroups": [
            {"name": "old", "column": "age", "at_least": 65},
            {"name": "young", "column": "age", "below": 65},
            {"name": "smokers", "column": "smoker", "equals": "current"},
        ],
        "min_cohort": 4,
    }
)


def clinic_frame(num_rows: int = 20, seed: int = 0) -> pd.DataFrame:
    """Return rows that the schema accepts, one per patient, without missing cells."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "mrn": np.arange(1000, 1000 + num_rows),
            "age": rng.integers(20, 95, num_rows),
            "creatinine": rng.normal(90, 10, num_rows).round(1),
            "chol": rng.integers(120, 300, num_rows),
            "smoker": rng.choice(["never", "former", "current"], num_rows),
            "stage": rng.integers(1, 4, num_rows),
            "ward": "west",
            "hour_of_death": np.nan,
            "died": np.arange(num_rows) % 2,
        }
    )
