"""From what each row of a site came to, to the site's figures: classes of patients, and masks.

Legend: N rows, P patients or rows that a label belongs to, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedward.common.images.mask_metrics import ROW_FIGURES, mask_metrics
from fedward.common.metrics import binary_metrics, multiclass_metrics
from fedward.common.task import Metric

Known = Mapping[str, npt.NDArray[Any]]


class ClassRows(NamedTuple):
    """What figures of a classifier are computed from."""

    label: npt.NDArray[np.int64]
    """(P,)."""
    probability_PC: npt.NDArray[np.float64]
    patient_id: npt.NDArray[np.int64]
    """(P,) whose they are."""


def class_rows(known: Known, label_of: Literal["patient", "row"]) -> ClassRows:
    """Return the labelled rows, or one per patient: the mean probability of the patient's rows.

    Args:
        known: `probability` (N, C), `label`, `labelled`, `patient_id` (N,).
        label_of: whose the label is.
    """
    use = known["labelled"]
    label, probability_NC = known["label"][use], known["probability"][use]
    patient = known["patient_id"][use]
    if label_of == "row" or len(label) == 0:
        return ClassRows(label, probability_NC, patient)
    patients, first, owner = np.unique(patient, return_index=True, return_inverse=True)
    sums_PC = np.zeros((len(patients), probability_NC.shape[1]))
    np.add.at(sums_PC, owner, probability_NC)
    return ClassRows(label[first], sums_PC / np.bincount(owner)[:, None], patients)


def class_figures(known: Known, label_of: Literal["patient", "row"]) -> dict[str, Metric]:
    """Return the figures of a classifier; n counts patients, or rows where each has its label.

    Args:
        known: see `class_rows`.
        label_of: whose the label is.
    """
    label, probability_PC, _ = class_rows(known, label_of)
    if probability_PC.shape[1] == 2:
        return binary_metrics(label, probability_PC[:, 1])
    return multiclass_metrics(label, probability_PC)


def mask_figures(known: Known, structures: Sequence[str]) -> dict[str, Metric]:
    """Return the figures of masks: by their plain names, or `dice.kidney` where there are several.

    Args:
        known: `mask.<structure>.<figure>`, `masked` (whether a row has a truth), `patient_id` (N,).
        structures: their names.
    """
    use = known["masked"]
    if not use.any():
        return {primary_mask_figure(structures): Metric(None, n=0, reason="no patient has a mask")}
    found: dict[str, Metric] = {}
    for structure in structures:
        figures = {name: known[f"mask.{structure}.{name}"][use] for name in ROW_FIGURES}
        own = mask_metrics(figures, known["patient_id"][use])
        suffix = f".{structure}" if len(structures) > 1 else ""
        found |= {name + suffix: metric for name, metric in own.items()}
    return found


def primary_mask_figure(structures: Sequence[str]) -> str:
    """Return the name of the Dice of the first structure, as `mask_figures` names it."""
    return "dice" if len(structures) == 1 else f"dice.{structures[0]}"
