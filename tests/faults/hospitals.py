"""Generated patients in the columns of the heart-disease schema, with strings planted in them."""

import csv
from pathlib import Path

import numpy as np

NUM_PATIENTS = {"aachen": 240, "bern": 180, "cork": 120, "delft": 90}
COLUMNS = [
    *("site", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach"),
    *("exang", "oldpeak", "slope", "ca", "thal", "num"),
]


def planted_strings(site: str) -> list[str]:
    """Return what stands in a column of `site` that is no feature and must never be seen again."""
    return [
        f"Mustermann-{site}-{number:04d} born 1941-02-{number % 28 + 1:02d}" for number in range(9)
    ]


def write_rows(path: Path, site: str) -> list[str]:
    """Write the table of `site` and return some of its rows as they stand in the file.

    The label follows age, sex and chest pain, so that there is something to learn; the column
    `site`, which the schema excludes, holds the planted strings.
    """
    rng = np.random.default_rng(sorted(NUM_PATIENTS).index(site))
    planted = planted_strings(site)
    rows: list[list[str]] = []
    for number in range(NUM_PATIENTS[site]):
        age, sex, pain = int(rng.integers(30, 78)), int(rng.integers(0, 2)), int(rng.integers(1, 5))
        risk = 0.07 * (age - 54) + 0.9 * sex + 0.8 * (pain - 2.5) - 0.5
        ill = int(rng.random() < 1 / (1 + np.exp(-risk)))
        rows.append(
            [
                planted[number % len(planted)],
                str(age),
                str(sex),
                str(pain),
                str(int(rng.integers(95, 190))),
                str(int(rng.integers(130, 400))),
                str(int(rng.integers(0, 2))),
                str(int(rng.integers(0, 3))),
                str(int(rng.integers(80, 200))),
                str(int(rng.integers(0, 2))),
                f"{rng.random() * 5:.4f}",
                str(int(rng.integers(1, 4))),
                str(int(rng.integers(0, 4))),
                str(int(rng.choice([3, 6, 7]))),
                str(ill),
            ]
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return [",".join(row[1:]) for row in rows]
