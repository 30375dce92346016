"""The losses of images, against the formulas written out."""

import math

import pytest
import torch

from fedward.common.config.image import LossConfig
from fedward.common.images.losses import (
    classification_loss,
    deep_segmentation_loss,
    dynamic_weights,
    one_hot,
    segmentation_loss,
)

BOTH = LossConfig()


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("dice", "classification"),
    # Without any mask, below the threshold, at it, above it: Algorithm 1 of USCNet.
    [(None, 0.2), (0.0, 0.0), (0.37, 0.37), (0.8, 0.8), (0.95, 0.8)],
)
def test_weights_follow_the_algorithm(dice: float | None, classification: float) -> None:
    weights = dynamic_weights(dice)
    assert weights.classification == pytest.approx(classification)
    assert weights.segmentation == pytest.approx(1 - classification)


def test_weights_do_not_jump_at_the_threshold() -> None:
    below, above = dynamic_weights(0.8 - 1e-9), dynamic_weights(0.8 + 1e-9)
    assert below.classification == pytest.approx(above.classification, abs=1e-8)


def test_the_classification_loss_is_that_of_each_sample() -> None:
    p = 0.7  # of class 1; logits (0, z) as in a network with one output
    logits = torch.tensor([[0.0, logit(p)], [0.0, logit(p)]])
    loss = classification_loss(logits, torch.tensor([1, 0]), BOTH)
    for found, p_true in zip(loss.tolist(), (p, 1 - p), strict=True):
        bce = -math.log(p_true)
        focal = 0.25 * (1 - p_true) ** 2 * bce
        assert found == pytest.approx(0.1 * bce + 0.9 * focal, rel=1e-5)


def test_a_missing_term_leaves_its_weight_to_the_other() -> None:
    logits, label = torch.tensor([[0.2, -0.4]]), torch.tensor([0])
    bce = classification_loss(logits, label, LossConfig(classification=("bce",)))
    focal = classification_loss(logits, label, LossConfig(classification=("focal",)))
    assert bce.item() == pytest.approx(-math.log(torch.softmax(logits, 1)[0, 0].item()))
    both = classification_loss(logits, label, BOTH)
    assert both.item() == pytest.approx(0.1 * bce.item() + 0.9 * focal.item(), rel=1e-5)


def test_no_sample_of_a_batch_changes_the_loss_of_another() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 2, 6, 6, 6, generator=generator)
    mask = torch.randint(0, 3, (4, 6, 6, 6), generator=generator)
    outputs = {"mask": logits, "mask.1": logits[..., ::2, ::2, ::2]}
    whole = deep_segmentation_loss(outputs, mask, 2, BOTH)
    for row in range(4):
        own = {name: value[row : row + 1] for name, value in outputs.items()}
        alone = deep_segmentation_loss(own, mask[row : row + 1], 2, BOTH)
        assert alone.item() == pytest.approx(whole[row].item(), abs=1e-6)


def test_dice_is_that_of_the_probabilities() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2, :] = 1
    logits = torch.where(truth == 1, logit(0.9), logit(0.2))
    by_hand = 1 - 2 * (8 * 0.9) / (8 * 0.9 + 8 * 0.2 + 8)
    assert segmentation_loss(logits, truth, BOTH).item() == pytest.approx(by_hand, abs=1e-5)


def test_an_empty_truth_is_met_by_predicting_nothing() -> None:
    empty = torch.zeros(1, 1, 8, 8)
    nothing = segmentation_loss(torch.full_like(empty, -30.0), empty, BOTH)
    something = segmentation_loss(torch.full_like(empty, 3.0), empty, BOTH)
    assert nothing.item() < 0.01
    assert something.item() > 0.9


def test_label_maps_become_one_channel_per_structure() -> None:
    mask = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    assert one_hot(mask, 2).tolist() == [[[[0, 1], [0, 1]], [[0, 0], [1, 0]]]]


def test_a_term_named_twice_is_that_term() -> None:
    logits, label = torch.tensor([[0.2, -0.4]]), torch.tensor([0])
    for term in ("bce", "focal"):
        once = classification_loss(logits, label, LossConfig(classification=(term,)))
        twice = classification_loss(logits, label, LossConfig(classification=(term, term)))
        assert torch.equal(once, twice)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_sample_that_is_wholly_right_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.5]], requires_grad=True)
    classification_loss(
        logits, torch.tensor([0, 0]), LossConfig(focal_gamma=gamma)
    ).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_balance_of_classes_multiplies_the_loss_of_each_sample_of_a_class() -> None:
    logits = torch.tensor([[0.2, -0.4, 1.0], [0.5, 0.1, -1.0], [2.0, 0.3, 0.1]])
    label = torch.tensor([2, 0, 1])
    for terms in (("bce",), ("focal",), ("bce", "focal")):
        plain = classification_loss(logits, label, LossConfig(classification=terms))
        balanced = classification_loss(
            logits, label, LossConfig(classification=terms, class_balance=(1.0, 2.5, 4.0))
        )
        torch.testing.assert_close(balanced, plain * torch.tensor([4.0, 1.0, 2.5]))
    # torch's own weighted cross-entropy, before it is averaged.
    expected = torch.nn.functional.cross_entropy(
        logits, label, weight=torch.tensor([1.0, 2.5, 4.0]), reduction="none"
    )
    loss = LossConfig(classification=("bce",), class_balance=(1.0, 2.5, 4.0))
    torch.testing.assert_close(classification_loss(logits, label, loss), expected)
