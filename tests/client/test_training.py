"""Local training of one site, against torch's own classes and plain loops."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedward.client.corrections import Correction, Pull, ditto, fedprox, scaffold
from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import IndexBatch, ShuffleSampler
from fedward.client.training import Event, LocalResult, Parameters, PlainStep, train_locally
from fedward.common.models import build
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch, PatientDataset
from tests.client.plain_training import (
    cross_entropy,
    dense_layout,
    generated_images,
    generated_table,
    plain_round,
)
from tests.client.test_optimizers import OPTIMIZERS

SGD = OptimizerSettings("sgd", 0.1)


def new_model(name: str = "mlp", **own: object) -> nn.Module:
    with seeded_global_torch(1):
        return build(name, dense_layout(5), 2, own)


def train(
    model: nn.Module,
    data: PatientDataset,
    *,
    settings: OptimizerSettings = SGD,
    correction: Correction | None = None,
    epochs: int = 2,
) -> LocalResult:
    return train_locally(
        model,
        data,
        step=PlainStep(cross_entropy, settings, correction),
        sampler=ShuffleSampler(4, epochs=epochs),
        rng=torch.Generator().manual_seed(0),
    )


def vector(model: nn.Module) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return ParameterSet.of(model).flatten(model.state_dict())


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_a_site_learns_what_a_plain_torch_loop_learns(settings: OptimizerSettings) -> None:
    model, data = new_model(), generated_table(11, 5, seed=3)
    sampler = ShuffleSampler(4, epochs=3)
    losses, vectors = plain_round(new_model(), [data], vector(model), settings, sampler)
    result = train(model, data, settings=settings, epochs=3)
    assert result.loss == pytest.approx(losses[0], abs=1e-6)
    assert (result.num_steps, result.num_examples) == (9, 11)
    np.testing.assert_allclose(vector(model), vectors[0], atol=1e-6)


def test_the_same_holds_for_a_convolutional_network() -> None:
    data, settings = generated_images(6, seed=1), OptimizerSettings("sgd", 0.01, momentum=0.9)
    model = build("cnn", dense_layout(1), 10, {"channels": 2, "hidden": 4})
    start = vector(model)
    _, vectors = plain_round(model, [data], start, settings, ShuffleSampler(4, epochs=2))
    ParameterSet.of(model).load(model, start)
    train(model, data, settings=settings)
    np.testing.assert_allclose(vector(model), vectors[0], atol=1e-6)


def gradient_of(
    model: nn.Module, data: PatientDataset
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    loss = cross_entropy(model(data.all_rows()), data.all_rows()).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in gradients]).numpy()


def one_step(model: nn.Module, data: PatientDataset, correction: Correction) -> None:
    PlainStep(cross_entropy, SGD, correction)(model, data.all_rows())


@pytest.mark.parametrize("pull", [fedprox, ditto])
def test_a_pull_adds_its_strength_times_the_distance_to_the_anchor(pull: object) -> None:
    model, data = new_model(), generated_table(8, 5, seed=1)
    shared = ParameterSet.of(model)
    start = vector(model)
    anchor = np.random.default_rng(0).normal(size=start.shape).astype(np.float32)
    expected = start - np.float32(0.1) * (gradient_of(model, data) + 0.3 * (start - anchor))
    correction = (
        fedprox(shared, anchor, mu=0.3) if pull is fedprox else ditto(shared, anchor, penalty=0.3)
    )
    one_step(model, data, correction)
    np.testing.assert_allclose(vector(model), expected, atol=1e-6)


def test_scaffold_steps_along_the_gradient_minus_own_plus_server_control() -> None:
    model, data = new_model(), generated_table(8, 5, seed=1)
    start, rng = vector(model), np.random.default_rng(0)
    control, own = rng.normal(size=(2, len(start))).astype(np.float32)
    expected = start - np.float32(0.1) * (gradient_of(model, data) - own + control)
    one_step(model, data, scaffold(ParameterSet.of(model), control, own))
    np.testing.assert_allclose(vector(model), expected, atol=1e-6)


def test_a_correction_leaves_tensors_that_are_not_shared_alone() -> None:
    model, data = new_model(), generated_table(8, 5, seed=1)
    shared = ParameterSet.of(model, ["head.*"])
    anchor = np.full(shared.size, 9, dtype=np.float32)
    reference = new_model()
    one_step(model, data, Pull(shared, 0.5, anchor))
    PlainStep(cross_entropy, SGD)(reference, data.all_rows())
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor, reference.state_dict()[name])
        assert same != name.startswith("head")


def test_frozen_parameters_stay() -> None:
    model = new_model()
    model.get_submodule("head").requires_grad_(requires_grad=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, generated_table(8, 5, seed=1))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("head")


def test_gradients_that_an_earlier_loop_left_behind_do_not_count() -> None:
    model, reference, data = new_model(), new_model(), generated_table(8, 5, seed=1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    train(model, data)
    train(reference, data)
    np.testing.assert_array_equal(vector(model), vector(reference))


def test_a_parameter_that_the_batch_does_not_reach_has_gradient_zero() -> None:
    model = new_model()
    spare = nn.Parameter(torch.ones(2))
    model.register_parameter("spare", spare)
    train(model, generated_table(8, 5, seed=1))
    assert torch.equal(spare, torch.ones(2))


class FixedSampler:
    """Yields the given batches: stands for a Poisson sampler."""

    def __init__(self, *batches: Sequence[int]) -> None:
        self.batches = batches

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        del num_patients, rng
        for number, batch in enumerate(self.batches, start=1):
            yield IndexBatch(torch.tensor(batch, dtype=torch.int64), 0, number == len(self.batches))


def test_an_empty_batch_is_no_step() -> None:
    model, reference, data = new_model(), new_model(), generated_table(3, 5, seed=1)
    settings = OptimizerSettings("sgd", 0.1, momentum=0.9, weight_decay=0.1)
    results = [
        train_locally(
            each,
            data,
            step=PlainStep(cross_entropy, settings),
            sampler=FixedSampler(*batches),
            rng=torch.Generator(),
        )
        for each, batches in [(model, [[], [0], [], [1, 2]]), (reference, [[0], [1, 2]])]
    ]
    assert results[0] == results[1]
    assert results[0].num_steps == 2
    np.testing.assert_array_equal(vector(model), vector(reference))


def test_a_site_that_draws_nobody_has_no_loss_and_keeps_its_model() -> None:
    model = new_model()
    before = vector(model)
    result = train_locally(
        model,
        generated_table(3, 5, seed=1),
        step=PlainStep(cross_entropy, SGD),
        sampler=FixedSampler([]),
        rng=torch.Generator(),
    )
    assert np.isnan(result.loss)
    assert result.num_steps == 0
    np.testing.assert_array_equal(vector(model), before)


def test_the_loss_is_a_mean_over_rows_not_over_batches() -> None:
    data = generated_table(5, 5, seed=1)
    model = new_model()
    expected = float(cross_entropy(model(data.all_rows()), data.all_rows()).mean().detach())
    still = OptimizerSettings("sgd", 1e-12)
    assert train(model, data, settings=still, epochs=1).loss == pytest.approx(expected, rel=1e-6)


def test_all_rows_of_a_patient_are_drawn_together() -> None:
    flat = generated_table(5, 5, seed=1)
    data = PatientDataset(flat.rows, starts=torch.tensor([0, 2, 2, 5]))
    seen: list[list[int]] = []

    def step(model: nn.Module, batch: Batch) -> Tensor:
        del model
        seen.append(batch["patient_id"].tolist())
        return torch.zeros(())

    sampler = FixedSampler([2], [0, 1], [1])
    train_locally(new_model(), data, step=step, sampler=sampler, rng=torch.Generator())
    assert seen == [[2, 3, 4], [0, 1], []]


def test_observers_see_every_step_and_every_end_of_an_epoch() -> None:
    events: list[tuple[str, int, int]] = []
    norms: list[float] = []

    def observer(event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        events.append((event, epoch, step))
        norms.append(float(parameters["head.weight"].norm()))

    train_locally(
        new_model(),
        generated_table(6, 5, seed=1),
        step=PlainStep(cross_entropy, SGD),
        sampler=ShuffleSampler(4, epochs=2),
        observers=[observer],
        rng=torch.Generator(),
    )
    assert events == [
        ("start", 0, 0),
        *[("step", 0, 1), ("step", 0, 2), ("epoch", 0, 2)],
        *[("step", 1, 3), ("step", 1, 4), ("epoch", 1, 4)],
    ]
    assert len(set(norms)) == 5  # as received and after four steps: the tensors are the live ones


def test_an_observer_that_writes_is_caught() -> None:
    def observer(event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        del event, epoch, step
        parameters["head.weight"].zero_()

    with pytest.raises(RuntimeError, match="an observer wrote"):
        train_locally(
            new_model(),
            generated_table(6, 5, seed=1),
            step=PlainStep(cross_entropy, SGD),
            sampler=ShuffleSampler(4, epochs=1),
            observers=[observer],
            rng=torch.Generator(),
        )


def test_dropout_is_the_same_under_the_same_seed() -> None:
    data = generated_table(8, 5, seed=1)
    trained = []
    for seed in (1, 1, 2):
        model = new_model(dropout=0.5)
        with seeded_global_torch(seed):
            train(model, data)
        trained.append(vector(model))
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2])
