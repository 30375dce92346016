"""Running the network in parts, in another layout, compiled: what is learned stays the same.

Legend: B rows, D, H, W voxels.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.client import precision
from fedward.client.corrections import fedprox
from fedward.client.optimizers import OptimizerSettings
from fedward.client.precision import Execution
from fedward.client.sampling import ShuffleSampler
from fedward.client.training import LocalResult, PlainStep, train_locally
from fedward.common.config.run import LocalConfig
from fedward.common.models import build
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Augment, Batch, PatientDataset
from tests.client.plain_training import cross_entropy, dense_layout, generated_table

SGD = OptimizerSettings("sgd", 0.1)
ADAM = OptimizerSettings("adam", 0.01)


class TwoHeads(nn.Module):
    """A small network of 3D images that answers with a mask and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.down = nn.Conv3d(4, 6, 2, stride=2)
        self.up = nn.ConvTranspose3d(6, 2, 2, stride=2)
        self.head = nn.Linear(6, 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        low = functional.gelu(self.down(functional.gelu(self.first(batch["image"].float()))))
        return {"mask": self.up(low), "label": self.head(low.mean(dim=(2, 3, 4)))}


def both_losses(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    mask = functional.binary_cross_entropy_with_logits(
        outputs["mask"], batch["mask"].float(), reduction="none"
    )
    return mask.flatten(1).mean(1) + cross_entropy(outputs["label"], batch)


def two_heads() -> nn.Module:
    with seeded_global_torch(2):
        return TwoHeads()


def volumes(num_rows: int) -> PatientDataset:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(num_rows, 1, 8, 8, 8, generator=generator)
    rows = {
        "image": image.half(),
        "mask": torch.cat([image > 0.5, image > 0.8], dim=1),
        "label": torch.randint(0, 2, (num_rows,), generator=generator),
        "patient_id": torch.arange(num_rows),
    }
    return PatientDataset(rows)


def train_volumes(
    model: nn.Module,
    execution: Execution | None = None,
    *,
    settings: OptimizerSettings = ADAM,
    augment: Augment | None = None,
) -> LocalResult:
    return train_locally(
        model,
        volumes(7),
        step=PlainStep(both_losses, settings, execution=execution),
        sampler=ShuffleSampler(5, epochs=2),
        rng=torch.Generator().manual_seed(0),
        augment=augment,
    )


def vector(model: nn.Module) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return ParameterSet.of(model).flatten(model.state_dict())


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 5])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole_batch(rows_at_once: int) -> None:
    # One plain step of rate 1: the change of the weights is the gradient itself.
    rate_1 = OptimizerSettings("sgd", 1.0)
    batch = volumes(7).all_rows()
    whole, parted = two_heads(), two_heads()
    start = vector(whole)
    expected = PlainStep(both_losses, rate_1)(whole, batch)
    execution = Execution(rows_at_once=rows_at_once)
    loss = PlainStep(both_losses, rate_1, execution=execution)(parted, batch)
    assert expected is not None
    assert loss is not None
    assert abs(float(loss - expected)) < 1e-6
    np.testing.assert_allclose(vector(parted) - start, vector(whole) - start, atol=1e-6)
    assert np.abs(vector(whole) - start).max() > 1e-3


def test_no_more_rows_than_asked_for_go_through_the_network_at_once() -> None:
    model, seen = two_heads(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0]["patient_id"])))
    train_volumes(model, Execution(rows_at_once=2))
    assert seen == [2, 2, 1, 2] * 2


def test_a_correction_is_added_once_per_batch_not_once_per_part() -> None:
    models = []
    for execution in (None, Execution(rows_at_once=3)):
        with seeded_global_torch(1):
            model = build("mlp", dense_layout(5), 2, {})
        shared = ParameterSet.of(model)
        pull = fedprox(shared, np.full(shared.size, 2, dtype=np.float32), mu=0.5)
        step = PlainStep(cross_entropy, SGD, pull, execution=execution)
        step(model, generated_table(8, 5, seed=1).all_rows())
        models.append(vector(model))
    np.testing.assert_allclose(models[0], models[1], atol=1e-6)


def test_an_empty_batch_is_passed_over_in_parts_too() -> None:
    batch = volumes(3).batch(torch.zeros(0, dtype=torch.int64))
    step = PlainStep(both_losses, SGD, execution=Execution(rows_at_once=2))
    assert step(two_heads(), batch) is None


@pytest.mark.parametrize("settings", [OptimizerSettings("sgd", 0.1, momentum=0.9), ADAM], ids=str)
def test_channels_last_changes_the_layout_and_not_what_is_learned(
    settings: OptimizerSettings,
) -> None:
    plain, laid_out = two_heads(), two_heads()
    execution = Execution(channels_last=True)
    execution.prepare(laid_out)
    expected = train_volumes(plain, settings=settings)
    found = train_volumes(laid_out, execution, settings=settings)
    for name in ("down.weight", "up.weight"):
        weight = laid_out.get_parameter(name)
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert not weight.is_contiguous()
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    np.testing.assert_allclose(vector(laid_out), vector(plain), atol=1e-5)


def test_channels_last_serves_slices_and_leaves_other_tensors_alone() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    model.register_parameter("places", nn.Parameter(torch.zeros(2, 3, 4, 4)))
    Execution(channels_last=True).prepare(model)
    assert model.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)
    assert model.get_parameter("places").is_contiguous()


def test_what_was_trained_in_another_layout_is_read_like_any_other() -> None:
    model, execution = two_heads(), Execution(channels_last=True)
    execution.prepare(model)
    train_volumes(model, execution)
    again = two_heads()
    ParameterSet.of(again).load(again, vector(model))
    batch = volumes(2).all_rows()
    torch.testing.assert_close(again(batch), model(batch), atol=1e-5, rtol=1e-5)


@pytest.fixture
def unsaid() -> Iterator[None]:
    precision._note_float32.cache_clear()
    yield
    precision._note_float32.cache_clear()


@pytest.mark.usefixtures("unsaid")
def test_bfloat16_on_a_cpu_is_float32_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    plain, asked = two_heads(), two_heads()
    train_volumes(plain, Execution())
    with caplog.at_level(logging.WARNING, logger="fedward.training"):
        train_volumes(asked, Execution(precision="bfloat16"))
    np.testing.assert_array_equal(vector(plain), vector(asked))
    (record,) = caplog.records
    assert "trains in float32" in record.getMessage()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_bfloat16_on_a_gpu_computes_in_bfloat16_and_answers_in_float32() -> None:
    model, seen = two_heads().cuda(), []
    model.get_submodule("down").register_forward_hook(lambda *found: seen.append(found[2].dtype))
    batch = {name: rows.cuda() for name, rows in volumes(7).rows.items()}
    outputs = Execution(precision="bfloat16").forward(model, batch)
    assert seen == [torch.bfloat16]
    assert {output.dtype for output in outputs.values()} == {torch.float32}
    step = PlainStep(both_losses, ADAM, execution=Execution(precision="bfloat16"))
    losses = [step(model, batch) for _ in range(30)]
    assert float(losses[-1] or 0) < float(losses[0] or 0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_keys_of_a_run_become_an_execution() -> None:
    local = LocalConfig(epochs=1, batch_size=8, learning_rate=0.1)
    assert Execution.of(local).is_plain
    assert PlainStep(both_losses, SGD, execution=Execution.of(local)).execution is None
    asked = local.model_copy(update={"rows_at_once": 4, "compile": True})
    assert Execution.of(asked) == Execution(rows_at_once=4, compile=True)


def test_each_batch_is_augmented_with_the_rounds_own_randomness() -> None:
    def noisy(batch: Batch, rng: torch.Generator) -> Batch:
        noise = torch.rand(batch["image"].shape, generator=rng)
        return {**batch, "image": batch["image"] + noise.half()}

    first, again, without = two_heads(), two_heads(), two_heads()
    train_volumes(first, augment=noisy)
    train_volumes(again, augment=noisy)
    train_volumes(without)
    np.testing.assert_array_equal(vector(first), vector(again))
    assert np.abs(vector(first) - vector(without)).max() > 1e-4


def test_augmenting_changes_what_is_trained_on_and_not_the_data() -> None:
    data, batches = volumes(6), []

    def blank(batch: Batch, rng: torch.Generator) -> Batch:
        batches.append(batch["patient_id"].tolist())
        return {**batch, "image": torch.zeros_like(batch["image"])}

    before = data.rows["image"].clone()
    step = PlainStep(both_losses, SGD)
    sampler = ShuffleSampler(4, epochs=1)
    train_locally(
        two_heads(), data, step=step, sampler=sampler, rng=torch.Generator(), augment=blank
    )
    assert torch.equal(data.rows["image"], before)
    assert sorted(patient for batch in batches for patient in batch) == list(range(6))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_keeps_its_names() -> None:
    models, batch = [], generated_table(8, 5, seed=1).all_rows()
    for execution in (Execution(), Execution(compile=True, rows_at_once=4)):
        with seeded_global_torch(1):
            model = build("mlp", dense_layout(5), 2, {})
        execution.prepare(model)
        step = PlainStep(cross_entropy, SGD, execution=execution)
        step(model, batch)
        step(model, batch)
        models.append(model)
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    np.testing.assert_allclose(vector(models[0]), vector(models[1]), atol=1e-6)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_which_key_to_leave_out(tmp_path: object) -> None:
    code = """if True:
        import torch
        from torch import nn
        from fedward.client.precision import Execution
        from fedward.common.errors import ConfigError
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 2)
            def forward(self, batch):
                return torch.relu(self.layer(batch["features"]))
        model, execution = Net(), Execution(compile=True)
        execution.prepare(model)
        batch = {"features": torch.zeros(4, 3), "patient_id": torch.arange(4)}
        try:
            execution.forward(model, batch)
        except ConfigError as error:
            print(error)
    """
    environment = {
        "CXX": "/nowhere/g++",
        "PATH": "/nowhere",
        "HOME": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "local.compile: torch.compile cannot compile this network on this machine" in done.stdout
    assert "leave the key out" in done.stdout
