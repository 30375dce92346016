"""The losses of images, each per sample, and how USCNet weighs them against each other.

Legend: B samples, K structures, C classes, `...` the axes of an image.

Source: Wang et al. 2026, "USCNet", arXiv:2604.07141, equations 4 to 7 and algorithm 1. Ours: the
focal loss is that of each sample (the authors' code takes it of the batch's mean, which couples the
samples); the weights are continuous at a Dice of 0.8, min(S, 0.8) and its rest, and equal those of
algorithm 1 on both sides of it; S is measured on patients that are not trained on.
"""

from dataclasses import dataclass

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional

from fedward.common.config.image import LossConfig

TURNING_DICE = 0.8
START_CLASS_WEIGHT = 0.2
SMOOTH = 1e-5
LEAST_WRONG = 1e-6
"""Of the probability that is not the true class's, in the focal term."""
_DICE = DiceLoss(sigmoid=True, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH)


@dataclass(frozen=True)
class Weights:
    """How much segmentation and classification count; they add up to 1."""

    segmentation: float
    classification: float


def dynamic_weights(dice: float | None) -> Weights:
    """Return the weights after a validation Dice; None: no validation patient has a mask.

    Source: algorithm 1; without a Dice 0.8 and 0.2, what section 3.2 of the paper starts from. A
    federated round starts from the Dice of the received model instead, also the first one.
    """
    share = START_CLASS_WEIGHT if dice is None else min(max(dice, 0.0), TURNING_DICE)
    return Weights(1.0 - share, share)


def one_hot(mask: Tensor, num_structures: int) -> Tensor:
    """Return (B, K, ...) in {0, 1} float32 of a label map (B, ...) with values 0 .. K."""
    values = torch.arange(1, num_structures + 1, device=mask.device, dtype=mask.dtype)
    shape = (1, -1, *([1] * (mask.ndim - 1)))
    return (mask.unsqueeze(1) == values.view(shape)).float()


def segmentation_loss(logits: Tensor, truth: Tensor, loss: LossConfig) -> Tensor:
    """Return (B,): 1 - Dice of the sigmoid, mean over structures; with cross-entropy if asked.

    Args:
        logits: (B, K, ...).
        truth: (B, K, ...) in {0, 1}.
        loss: which terms.

    Source: equation 4. A structure that is absent counts as found if nothing is predicted.
    """
    logits = logits.float()
    dice: Tensor = _DICE(logits, truth).flatten(1).mean(1)
    if loss.segmentation == "dice":
        return dice
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return 0.5 * dice + 0.5 * entropy.flatten(1).mean(1)


def deep_segmentation_loss(
    outputs: dict[str, Tensor], mask: Tensor, num_structures: int, loss: LossConfig
) -> Tensor:
    """Return (B,): the loss of the mask and, halved from level to level, of coarser ones.

    Args:
        outputs: `mask` (B, K, ...), and perhaps `mask.1`, `mask.2` ...
        mask: (B, ...) label map.
        num_structures: K.
        loss: which terms.

    Source: the weights of Isensee et al. 2021, nnU-Net, Nature Methods 18:203, supplement 4.
    """
    names = ["mask"]
    while loss.deep_supervision and f"mask.{len(names)}" in outputs:
        names.append(f"mask.{len(names)}")
    total = sum(0.5**level for level in range(len(names)))
    truth = one_hot(mask, num_structures)
    parts = []
    for level, name in enumerate(names):
        logits = outputs[name]
        smaller = truth
        if logits.shape[2:] != truth.shape[2:]:
            smaller = functional.interpolate(truth, size=logits.shape[2:], mode="nearest")
        parts.append(segmentation_loss(logits, smaller, loss) * (0.5**level / total))
    return torch.stack(parts).sum(0)


def classification_loss(logits_BC: Tensor, label: Tensor, loss: LossConfig) -> Tensor:
    """Return (B,): lambda BCE + (1 - lambda) focal loss, or the one that is asked for.

    With two classes the cross-entropy of the softmax is the BCE of the sigmoid of their difference.

    Args:
        logits_BC: (B, C).
        label: (B,) class.
        loss: which terms, their shares, gamma.

    Source: equations 5 to 7; where a term is missing the other has its weight (section 3.5.3). The
    balance of classes is that of ResFormer's weighted cross-entropy.
    """
    entropy = functional.cross_entropy(logits_BC.float(), label, reduction="none")
    # Not from 0 on, where a gamma below 1 has an infinite slope.
    wrong = (1 - torch.exp(-entropy)).clamp(min=LEAST_WRONG)
    focal = loss.focal_scale * wrong**loss.focal_gamma * entropy
    terms = set(loss.classification)
    if terms == {"bce"}:
        total = entropy
    elif terms == {"focal"}:
        total = focal
    else:
        total = loss.bce_share * entropy + (1 - loss.bce_share) * focal
    if loss.class_balance is None:
        return total
    # Of the sample's own class, not a mean weighted over the batch: that would couple the samples.
    return total * total.new_tensor(loss.class_balance)[label]
