"""What a patient's image and table show, and how the label follows from them.

A patient has two states that are drawn apart: what the image shows and
what the table shows. `both`: one draw for the two, so image and table are independent evidence
given the label; `ct` and `ehr`: the label is one of the two, and the other side belongs to an
unrelated patient; `none`: it is neither.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class States:
    """What the image shows, what the table shows, and the label."""

    image: bool
    table: bool
    label: bool
    linked: bool
    """Image and table are the same patient's."""


def draw_states(rng: np.random.Generator, labels_from: str, share: float) -> States:
    """Return the states of one patient; see above.

    Args:
        rng: its state decides.
        labels_from: "both", "ct", "ehr" or "none".
        share: of label 1, 0 to 1.
    """
    image, table, other = (bool(value) for value in rng.random(3) < share)
    if labels_from == "both":
        return States(image, image, image, linked=True)
    label = {"ct": image, "ehr": table, "none": other}[labels_from]
    return States(image, table, label, linked=False)
