"""The clinical columns of phantoms: correlated with infection and composition, with gaps.

Ranges are ours, of the size that urology wards see; the seven variables and the eight locations
with their frequencies are those of USCNet (table 6). Infection stones come with urine that is
alkaline and full of leukocytes, and more often in women; uric acid stones with acid urine.
"""

import numpy as np

Row = dict[str, float | str | None]

STONE_COLUMNS = (
    "age", "sex", "blood_wbc", "creatinine", "urine_wbc", "urine_ph", "location",
)  # fmt: skip
NODULE_COLUMNS = ("age", "sex", "pack_years", "lucency", "retraction")
LOCATIONS = {
    "left-ureter": 86, "right-ureter": 53, "ureter": 63, "left-kidney": 15, "right-kidney": 17,
    "kidney": 16, "bladder": 10, "urethra": 7,
}  # fmt: skip
"""Stones at each place in table 6 of USCNet; "ureter" and "kidney": no side is noted."""


def draw_location(rng: np.random.Generator) -> str:
    """Return where the stone is; not by the label, since image and table both show it."""
    counts = np.asarray(list(LOCATIONS.values()), dtype=float)
    return str(rng.choice(list(LOCATIONS), p=counts / counts.sum()))


def stone_row(
    rng: np.random.Generator, *, infectious: bool, composition: str, location: str, missing: float
) -> Row:
    """Return the table's row of a patient with a stone.

    Args:
        rng: its state decides.
        infectious: shifts sex, leukocytes, creatinine, pH and, a little, age.
        composition: of the stone; shifts the urine's pH.
        location: as drawn.
        missing: share of values that are None.
    """
    ill = float(infectious)
    acid = 0.45 if composition.startswith("uric-acid") else 0.0
    row: Row = {
        "age": round(float(np.clip(rng.normal(48 + 3 * ill, 14), 18, 90))),
        "sex": "F" if rng.random() < 0.33 + 0.25 * ill else "M",
        "blood_wbc": round(float(rng.lognormal(np.log(7.4 + 1.1 * ill), 0.28)), 1),
        "creatinine": round(float(rng.lognormal(np.log(84 + 6 * ill), 0.28))),
        "urine_wbc": round(float(rng.lognormal(np.log(45) + 1.4 * ill, 1.45))),
        "urine_ph": round(float(np.clip(rng.normal(6.15 - acid + 0.58 * ill, 0.6), 4.5, 9.0)), 1),
        "location": location,
    }
    return _with_gaps(row, rng, missing)


def nodule_row(
    rng: np.random.Generator, *, invasive: bool, lucency: bool, retraction: bool, missing: float
) -> Row:
    """Return the table's row of a patient with a nodule.

    Args:
        rng: its state decides.
        invasive: shifts age and pack years.
        lucency: air bubbles are in the nodule; shown, not drawn.
        retraction: the pleura is drawn in; shown, not drawn.
        missing: share of the values of age, sex and pack years that are None.
    """
    ill = float(invasive)
    smokes = rng.random() < 0.40 + 0.36 * ill
    row: Row = {
        "age": round(float(np.clip(rng.normal(55 + 10.5 * ill, 9.5), 25, 90))),
        "sex": "F" if rng.random() < 0.56 - 0.12 * ill else "M",
        "pack_years": round(float(rng.lognormal(np.log(16 + 14 * ill), 0.55))) if smokes else 0,
    }
    row = _with_gaps(row, rng, missing)
    row["lucency"] = int(lucency)
    row["retraction"] = int(retraction)
    return row


def _with_gaps(row: Row, rng: np.random.Generator, missing: float) -> Row:
    gone = rng.random(len(row)) < missing
    return {name: None if out else row[name] for name, out in zip(row, gone, strict=True)}
