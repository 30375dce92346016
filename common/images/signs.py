"""Signs: what is, or is not, to be seen in an image, learnt beside its label.

Nobody need have looked: a sign that is missing (-1) adds nothing to a loss, and is in no figure.

Legend: B and N rows, S signs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fedward.common.images.figures import class_figures
from fedward.common.task import Metric

SIGN_FIGURES = ("auroc", "sensitivity", "specificity")
PROBABILITY = "sign.probability"
TRUTH = "sign.truth"


def signs_loss(logits_BS: Tensor, signs_BS: Tensor) -> Tensor:
    """Return (B,): the sum of the binary cross-entropies of the signs that are known.

    Args:
        logits_BS: (B, S).
        signs_BS: (B, S), 1, 0, or -1 where nobody looked.
    """
    logits_BS = logits_BS.to(torch.promote_types(logits_BS.dtype, torch.float32))
    truth_BS = signs_BS.clamp(min=0).to(logits_BS.dtype)
    entropy_BS = functional.binary_cross_entropy_with_logits(logits_BS, truth_BS, reduction="none")
    return (entropy_BS * (signs_BS >= 0)).sum(1)


def condensed_signs(logits_BS: Tensor, signs_BS: Tensor) -> dict[str, Tensor]:
    """Return what figures of signs need of one pass: probabilities and truths, both (B, S)."""
    return {PROBABILITY: torch.sigmoid(logits_BS.double()), TRUTH: signs_BS}


def sign_figures(
    known: Mapping[str, npt.NDArray[Any]],
    names: Sequence[str],
    label_of: Literal["patient", "row"],
) -> dict[str, Metric]:
    """Return the figures of each sign, such as `auroc.lucency`, over those of whom it is known.

    Args:
        known: of all rows, what `condensed_signs` returned, and `patient_id` (N,).
        names: of the signs.
        label_of: whose a sign is.
    """
    found: dict[str, Metric] = {}
    for place, name in enumerate(names):
        probability_N, truth_N = known[PROBABILITY][:, place], known[TRUTH][:, place]
        own = class_figures(
            {
                "probability": np.stack([1 - probability_N, probability_N], axis=1),
                "label": truth_N.astype(np.int64),
                "labelled": truth_N >= 0,
                "patient_id": known["patient_id"],
            },
            label_of,
        )
        found |= {f"{figure}.{name}": own[figure] for figure in SIGN_FIGURES}
    return found
