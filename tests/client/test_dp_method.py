"""Which way of clipping suits a network, and what is refused before a patient is looked at."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedward.client.privacy.method import Method, method_for
from fedward.common.errors import ConfigError
from fedward.common.models import build
from fedward.common.models.image_models import build_image_model
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch
from tests.client.plain_training import cross_entropy, dense_layout, generated_table
from tests.client.test_dp_gradients import assert_exact, image_loss
from tests.common.image_batches import FORM_3D, images


def rows() -> Batch:
    return generated_table(6, 5, seed=1).all_rows()


class Own(nn.Module):
    """A user's network: `body`, then a linear head."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 2)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.head(self.body(batch["features"]))
        return logits


class Recurrent(nn.Module):
    """Reads the columns one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 4, batch_first=True)

    def forward(self, features_BF: Tensor) -> Tensor:
        last_Bh: Tensor = self.gru(features_BF.unsqueeze(2))[1].squeeze(0)
        return last_Bh


class Remembering(nn.Module):
    """Keeps the mean of all that it sees."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, features_BF: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(features_BF.detach().mean(0), alpha=0.1)
        return features_BF - self.mean


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("logistic-regression", {}),
        ("mlp", {"norm": "layer", "dropout": 0.1}),
        ("mlp", {"norm": "group"}),
        ("ft-transformer", {"dropout": 0.1}),
    ],
)
def test_dense_networks_take_one_backward_pass(name: str, own: dict[str, object]) -> None:
    model = build(name, dense_layout(5), 2, own)
    assert method_for(model, cross_entropy, rows()) == Method("dense")


def test_a_users_network_is_vectorised() -> None:
    model = Own(nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True)), 4)
    found = method_for(model, cross_entropy, rows())
    assert found.kind == "vectorised"
    assert_exact(
        model.double(), cross_entropy, {**rows(), "features": rows()["features"].double()}, found,
        max_norm=0.5,
    )  # fmt: skip


def test_a_network_that_vmap_cannot_take_goes_patient_by_patient_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Own(Recurrent(), 4)
    with caplog.at_level(logging.WARNING):
        found = method_for(model, cross_entropy, rows())
    assert found.kind == "one-by-one"
    assert "one patient at a time" in caplog.text
    batch = {**rows(), "features": rows()["features"].double()}
    assert_exact(model.double(), cross_entropy, batch, found, max_norm=0.5)


def test_gradients_that_do_not_fit_in_memory_are_computed_one_by_one() -> None:
    model = Own(nn.Linear(5, 4), 4)
    limit = 50 * 2**20 + 3 * sum(p.nbytes for p in model.parameters()) + 100
    tight = method_for(model, cross_entropy, rows(), memory_limit_bytes=limit)
    roomy = method_for(model, cross_entropy, rows(), memory_limit_bytes=limit + 10_000)
    assert (tight.kind, roomy.kind) == ("one-by-one", "vectorised")
    assert 2 <= roomy.rows_at_once < 50


@pytest.mark.parametrize("norm", ["batch"])
def test_batch_normalisation_is_refused_with_the_key_to_change(norm: str) -> None:
    model = build("mlp", dense_layout(5), 2, {"norm": norm})
    with pytest.raises(ConfigError, match=r"body\.1.*model\.norm: group"):
        method_for(model, cross_entropy, rows())


@pytest.mark.parametrize("name", ["basic-unet", "resnet3d", "small-cnn"])
def test_so_is_that_of_networks_of_images(name: str) -> None:
    own: dict[str, dict[str, Any]] = {
        "basic-unet": {"features": [4, 4, 8, 8, 8, 4]},
        "resnet3d": {"depth": 10, "width": 4},
        "small-cnn": {"channels": [8, 4], "hidden": [8, 8]},
    }
    model = build_image_model(name, FORM_3D, {**own[name], "norm": "batch"})
    batch = {**images(FORM_3D, 2), "patient_id": torch.arange(2)}
    with pytest.raises(ConfigError, match="batch normalisation"):
        method_for(model, image_loss(FORM_3D), batch)


def test_batch_normalisation_without_running_statistics_is_refused_too() -> None:
    """Under vmap it would run, silently, on the statistics of one patient."""
    body = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ConfigError, match="batch normalisation"):
        method_for(Own(body, 4), cross_entropy, rows())


def test_instance_normalisation_with_running_statistics_is_refused() -> None:
    body = nn.Sequential(
        nn.Linear(5, 4), nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True),
        nn.Flatten(),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="track_running_stats=False"):
        method_for(Own(body, 4), cross_entropy, rows())


def test_a_forward_that_remembers_patients_in_a_buffer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"buffer 'body\.0\.mean'"):
        method_for(Own(nn.Sequential(Remembering(), nn.Linear(5, 4)), 4), cross_entropy, rows())


def test_half_precision_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32"):
        method_for(Own(nn.Linear(5, 4), 4).half(), cross_entropy, rows())


def test_a_network_without_a_trained_weight_is_refused() -> None:
    model = Own(nn.Linear(5, 4), 4)
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(ConfigError, match="frozen"):
        method_for(model, cross_entropy, rows())


def test_a_loss_of_the_whole_batch_is_refused() -> None:
    def batch_mean(outputs: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch).mean()

    with pytest.raises(ConfigError, match="a loss of each row"):
        method_for(Own(nn.Linear(5, 4), 4), batch_mean, rows())


def test_weights_that_the_loss_does_not_depend_on_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Own(nn.Linear(5, 4), 4)
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    with caplog.at_level(logging.WARNING):
        method_for(model, cross_entropy, rows())
    assert "spare" in caplog.text
    assert "freeze" in caplog.text


def test_trying_out_looks_at_no_patient_and_changes_nothing() -> None:
    model = build("mlp", dense_layout(5), 2, {"dropout": 0.5}).eval()
    before = [p.detach().clone() for p in model.parameters()]
    seen: list[Tensor] = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        seen.append(batch["features"])
        return cross_entropy(outputs, batch)

    with seeded_global_torch(7):
        method_for(model, loss, rows())
        after_trying = torch.rand(1)
    with seeded_global_torch(7):
        assert torch.equal(after_trying, torch.rand(1))
    assert all(not features.any() for features in seen)
    assert not model.training
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None
