"""A private step: what it adds, what it leaves behind, and which planted faults would be seen."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from fedward.client.corrections import Pull
from fedward.client.optimizers import OptimizerSettings
from fedward.client.privacy.clipping import ClippedSum, PatientGradients
from fedward.client.privacy.method import Method
from fedward.client.privacy.patients import Patients
from fedward.client.privacy.sampling import PoissonSampler
from fedward.client.privacy.step import Mechanism, PrivateStep, signal_to_noise
from fedward.client.sampling import IndexBatch
from fedward.client.training import PlainStep, train_locally
from fedward.common.errors import ConfigError
from fedward.common.models import build
from fedward.common.parameters import ParameterSet
from fedward.common.privacy.noise import NoiseSource, SeededNoise
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch, Loss, PatientDataset
from tests.client.plain_training import cross_entropy, dense_layout, generated_table
from tests.client.private_training import in_float64, plain_gradients, weights

ERROR_RATE = 1e-6
"""Of each check: the probability that right training fails it."""
NUM_STEPS = 30
UNIT_STEP = OptimizerSettings("sgd", 1.0)
DENSE = Method("dense")


def new_model(**own: object) -> nn.Module:
    with seeded_global_torch(1):
        return build("mlp", dense_layout(5), 2, {"hidden": [64, 32], **own}).double().train()


def doubled(data: PatientDataset) -> PatientDataset:
    return PatientDataset(in_float64(nn.Identity(), data.all_rows())[1], data.starts)


def seeded(seed: int = 3) -> NoiseSource:
    return SeededNoise(torch.Generator().manual_seed(seed), dtype=torch.float64)


def private_step(
    noise: NoiseSource | None = None,
    *,
    method: Method = DENSE,
    optimizer: OptimizerSettings = UNIT_STEP,
    sigma: float = 1.5,
    max_norm: float = 0.5,
    expected: float = 4.0,
) -> PrivateStep:
    return PrivateStep(
        cross_entropy,
        optimizer,
        method=method,
        mechanism=Mechanism(sigma, max_norm, expected),
        noise=noise or seeded(),
    )


class FixedSampler:
    """Yields the given batches."""

    def __init__(self, *batches: Sequence[int]) -> None:
        self.batches = batches

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        del num_patients, rng
        for number, batch in enumerate(self.batches, start=1):
            yield IndexBatch(torch.tensor(batch, dtype=torch.int64), 0, number == len(self.batches))


# --- the two checks, and faults that they must see ---


def noise_p_value(step: PrivateStep, batch: Batch) -> float:
    """Return the smallest p-value of the noise of 30 steps, times their number.

    Each step moves the weights by (clipped sum + sigma C z) / expected; z must have variance 1 in
    every single step, so that one step without noise cannot hide among the others.
    """
    model, smallest = new_model(), 1.0
    for _ in range(NUM_STEPS):
        plain = plain_gradients(model, cross_entropy, batch)
        before = weights(model)
        step(model, batch)
        moved = (before - weights(model)) * step.mechanism.expected_patients
        z = (moved - plain.clipped_sum(step.mechanism.max_grad_norm)) / (1.5 * 0.5)
        below = float(chi2.cdf(float(z.square().sum()), len(z)))
        smallest = min(smallest, 2 * min(below, 1 - below))
    return smallest * NUM_STEPS


def clip_excess(step: PrivateStep, batch: Batch) -> float:
    """Return how much further than C / expected one loud patient moves the weights."""
    model = new_model()
    assert float(plain_gradients(model, cross_entropy, batch).flat_GP.norm()) > 2 * 0.5
    before = weights(model)
    step(model, batch)
    moved = (before - weights(model)) * step.mechanism.expected_patients
    return float(moved.norm()) - 0.5


def four_rows() -> Batch:
    return doubled(generated_table(4, 5, seed=2)).all_rows()


def one_loud_row() -> Batch:
    batch = doubled(generated_table(1, 5, seed=2)).all_rows()
    return {**batch, "features": 30 * batch["features"], "label": 1 - batch["label"]}


class Changed:
    """A source whose normals are tampered with."""

    is_secret = False

    def __init__(self, change: Callable[[int, Tensor], Tensor]) -> None:
        self._inner, self._change, self._number = seeded(), change, 0

    def normals(self, count: int) -> Tensor:
        self._number += 1
        return self._change(self._number, self._inner.normals(count))

    def uniforms(self, count: int) -> Tensor:
        return self._inner.uniforms(count)


def test_the_noise_has_the_deviation_of_the_mechanism_at_every_step() -> None:
    assert noise_p_value(private_step(), four_rows()) > ERROR_RATE


@pytest.mark.parametrize(
    "change",
    [
        lambda number, z: z / 2,
        lambda number, z: z / 27,
        lambda number, z: z * 0 if number == 17 else z,
    ],
    ids=["half", "a 27th", "one step of 30 skipped"],
)
def test_a_fault_planted_in_the_noise_is_seen(change: Callable[[int, Tensor], Tensor]) -> None:
    assert noise_p_value(private_step(Changed(change)), four_rows()) < ERROR_RATE


@dataclass(frozen=True)
class Unclipped(Method):
    """Plants a fault: the bound is forgotten."""

    def gradients(self, model: nn.Module, loss_per_sample: Loss) -> PatientGradients:
        inner = DENSE.gradients(model, loss_per_sample)

        class Forgetful:
            def clipped_sum(self, batch: Batch, patients: Patients, max_norm: float) -> ClippedSum:
                del max_norm
                return inner.clipped_sum(batch, patients, math.inf)

        return Forgetful()


def test_one_patient_moves_the_weights_no_further_than_the_bound() -> None:
    excess = clip_excess(private_step(sigma=0.0), one_loud_row())
    assert -1e-5 < excess <= 1e-12  # and all of the bound is used


def test_a_clip_that_was_removed_is_seen() -> None:
    assert clip_excess(private_step(sigma=0.0, method=Unclipped("dense")), one_loud_row()) > 0.5


# --- against Opacus ---


def opacus_round(
    model: nn.Module, data: PatientDataset, batches: Sequence[IndexBatch], noise: NoiseSource
) -> None:
    """Train with Opacus' own clipping, scaling and torch's Adam; only the noise is handed in."""
    from opacus.optimizers import DPOptimizer

    parameters: list[Any] = list(model.parameters())  # Opacus hangs its own on to them

    class FlatNoise(DPOptimizer):  # type: ignore[misc] # it has no types
        def add_noise(self) -> None:
            z = noise.normals(sum(p.numel() for p in parameters)) * (1.5 * 0.5)
            for p, piece in zip(parameters, z.split([p.numel() for p in parameters]), strict=True):
                p.grad = p.summed_grad + piece.view_as(p)

    optimizer = FlatNoise(
        torch.optim.Adam(parameters, lr=0.01),
        noise_multiplier=1.5,
        max_grad_norm=0.5,
        expected_batch_size=4,
    )
    for batch in batches:
        rows = data.batch(batch.indices)
        for p in parameters:
            p.grad_sample = p.new_zeros(0, *p.shape)
        if len(rows["patient_id"]):
            plain = plain_gradients(model, cross_entropy, rows).flat_GP
            for p, piece in zip(
                parameters, plain.split([p.numel() for p in parameters], dim=1), strict=True
            ):
                p.grad_sample = piece.view(-1, *p.shape)
        optimizer.step()
        optimizer.zero_grad()


def test_a_round_equals_that_of_opacus_to_1e_12() -> None:
    data = doubled(generated_table(9, 5, seed=1))
    sampler = PoissonSampler(1, steps=20)
    batches = list(sampler(len(data), torch.Generator().manual_seed(4)))
    assert any(len(batch.indices) == 0 for batch in batches)
    reference, model = new_model(), new_model()
    opacus_round(reference, data, batches, seeded())
    train_locally(
        model,
        data,
        step=private_step(optimizer=OptimizerSettings("adam", 0.01)),
        sampler=sampler,
        rng=torch.Generator().manual_seed(4),
    )
    torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=1e-12)


def test_without_noise_and_with_a_wide_bound_it_is_plain_training() -> None:
    data = doubled(generated_table(8, 5, seed=1))
    model, reference = new_model(), new_model()
    settings = OptimizerSettings("sgd", 0.1, momentum=0.9)
    step = private_step(optimizer=settings, sigma=0.0, max_norm=1e9, expected=8)
    sampler = FixedSampler(*[range(8)] * 5)
    for each, way in ((model, step), (reference, PlainStep(cross_entropy, settings))):
        train_locally(each, data, step=way, sampler=sampler, rng=torch.Generator())
    torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=1e-9)


# --- what a step leaves behind ---


def test_an_empty_batch_takes_a_noise_step_and_counts_as_one() -> None:
    data, model = doubled(generated_table(4, 5, seed=1)), new_model()
    before = weights(model)
    step = private_step(expected=2.0)
    result = train_locally(
        model, data, step=step, sampler=FixedSampler([], [], []), rng=torch.Generator()
    )
    z = (before - weights(model)) * 2.0 / (1.5 * 0.5)
    expected = seeded().normals(3 * len(z)).view(3, -1).sum(0)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)
    assert result.num_steps == 3
    assert math.isnan(result.loss)


def test_a_step_that_failed_leaves_nothing_for_the_next() -> None:
    """Opacus' optimiser keeps the clipped sum of a chunk whose successor failed."""
    batch, model, reference = four_rows(), new_model(), new_model()
    broken = {**batch, "features": batch["features"].clone()}
    failing = private_step(seeded(), method=Method("vectorised", 2))

    def loss(outputs: Tensor, rows: Batch) -> Tensor:
        loss.calls += 1  # type: ignore[attr-defined]
        if loss.calls == 2:  # type: ignore[attr-defined]
            raise RuntimeError("the second chunk fails")
        return cross_entropy(outputs, rows)

    loss.calls = 0  # type: ignore[attr-defined]
    failing.loss_per_sample = loss
    before = weights(model)
    with pytest.raises(RuntimeError, match="second chunk"):
        failing(model, broken)
    assert torch.equal(weights(model), before)
    assert all(p.grad is None for p in model.parameters())
    failing(model, batch)
    private_step(method=Method("vectorised", 2))(reference, batch)
    assert torch.equal(weights(model), weights(reference))


@pytest.mark.parametrize("method", [DENSE, Method("vectorised", 2), Method("one-by-one", 1)])
def test_a_record_that_is_not_a_number_harms_neither_this_step_nor_the_next(
    method: Method,
) -> None:
    batch, model, reference = four_rows(), new_model(), new_model()
    broken = {**batch, "features": batch["features"].clone()}
    broken["features"][1] = torch.nan
    others = {name: rows[[0, 2, 3]] for name, rows in batch.items()}
    adam = OptimizerSettings("adam", 0.01)
    one = private_step(method=method, optimizer=adam)
    other = private_step(method=method, optimizer=adam)
    for rows, same in ((broken, others), (batch, batch)):
        one(model, rows)
        other(reference, same)
        torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=1e-12)
    assert one.tally.summary(one.mechanism, 1)["left_out"] == 1 / 8


def test_a_site_whose_records_are_all_broken_still_takes_its_noise_steps() -> None:
    data = doubled(generated_table(4, 5, seed=1))
    data.rows["features"].fill_(torch.nan)
    model = new_model()
    before = weights(model)
    train_locally(
        model,
        data,
        step=private_step(),
        sampler=FixedSampler([0, 1], [2]),
        rng=torch.Generator(),
    )
    assert weights(model).isfinite().all()
    z = (before - weights(model)) * 4.0 / (1.5 * 0.5)
    expected = seeded().normals(2 * len(z)).view(2, -1).sum(0)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)


def test_corrections_come_after_the_noise_and_are_not_clipped() -> None:
    model = new_model().float()
    shared = ParameterSet.of(model)
    anchor = shared.flatten(model.state_dict()) - 100.0
    step = private_step(SeededNoise(torch.Generator()), sigma=0.0, max_norm=1e-3, expected=1.0)
    step.correction = Pull(shared, 0.5, anchor)
    before = weights(model)
    batch = generated_table(4, 5, seed=2).all_rows()
    step(model, batch)
    torch.testing.assert_close(before - weights(model), torch.full_like(before, 50.0), atol=0.1,
                               rtol=0)  # fmt: skip


def test_the_sum_is_divided_by_the_expected_number_not_by_those_drawn() -> None:
    batch, model = four_rows(), new_model()
    expected = plain_gradients(model, cross_entropy, batch).clipped_sum(0.5) / 7.5
    before = weights(model)
    private_step(sigma=0.0, expected=7.5)(model, batch)
    torch.testing.assert_close(before - weights(model), expected, rtol=0, atol=1e-12)


def test_the_tally_says_how_many_were_clipped_and_how_loud_the_noise_was() -> None:
    batch, model = four_rows(), new_model()
    norms = plain_gradients(model, cross_entropy, batch).flat_GP.norm(dim=1)
    bound = float(norms.sort().values[:2].mean())
    step = private_step(sigma=0.02, max_norm=bound, expected=4.0)
    before = weights(model)
    step(model, batch)
    num_weights = len(before)
    noised = float((4.0 * (before - weights(model))).norm())
    found = step.tally.summary(step.mechanism, num_weights)
    share = noised**2 / ((0.02 * bound) ** 2 * num_weights)
    assert found == {
        "num_steps": 1.0,
        "clipped": 0.75,
        "left_out": 0.0,
        "signal_to_noise": pytest.approx((share - 1) ** 0.5),
    }


@pytest.mark.parametrize("ratio", [0.0, 0.5, 3.0])
def test_signal_over_noise_is_seen_in_the_noised_sums_alone(ratio: float) -> None:
    rng, num_weights, num_steps = np.random.default_rng(5), 4000, 100
    mechanism = Mechanism(2.0, 0.5, 10.0)
    noise = rng.normal(0.0, mechanism.deviation, (num_steps, num_weights))
    signal = np.full(num_weights, ratio * mechanism.deviation)
    energy = float(((noise + signal) ** 2).sum(1).mean())
    found = signal_to_noise(energy, mechanism, num_weights)
    # The energy's relative deviation is sqrt(2 (1 + 2 r^2) / (P steps)); 5 of them: 6e-7.
    slack = 5 * (2 * (1 + 2 * ratio**2) / (num_weights * num_steps)) ** 0.5
    assert ratio**2 - slack <= found**2 <= ratio**2 + slack


@pytest.mark.parametrize(
    ("figures", "key"),
    [
        ((-1.0, 1.0, 4.0), "noise_multiplier"),
        ((math.nan, 1.0, 4.0), "noise_multiplier"),
        ((math.inf, 1.0, 4.0), "noise_multiplier"),
        ((1.0, 0.0, 4.0), "max_grad_norm"),
        ((1.0, math.nan, 4.0), "max_grad_norm"),
        ((1.0, math.inf, 4.0), "max_grad_norm"),
        ((1.0, 1.0, 0.0), "batch_size"),
        ((1.0, 1.0, math.nan), "batch_size"),
    ],
)
def test_a_mechanism_that_promises_nothing_is_refused(
    figures: tuple[float, float, float], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        Mechanism(*figures)
