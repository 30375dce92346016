"""Stacked training equals one site after the other, row by row."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from fedward.client import stacked
from fedward.client.corrections import Correction, Pull, Shift
from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import IndexBatch, Sampler, ShuffleSampler
from fedward.client.schedule import draw
from fedward.client.stacked import StackedResult, can_stack, train_stacked
from fedward.client.training import PlainStep, train_locally
from fedward.common.models import build
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import PatientDataset
from tests.client.plain_training import cross_entropy, dense_layout, generated_table, site_rngs

SGD = OptimizerSettings("sgd", 0.1)
OPTIMIZERS = [
    SGD,
    OptimizerSettings("sgd", 0.1, momentum=0.9, weight_decay=0.01),
    OptimizerSettings("adam", 0.003, weight_decay=0.01),
    OptimizerSettings("adamw", 0.003, weight_decay=0.1),
]
MODELS: list[tuple[str, dict[str, object]]] = [
    ("logistic-regression", {}),
    ("mlp", {"hidden": [8, 4], "norm": "layer"}),
    ("mlp", {"hidden": [8], "activation": "gelu"}),
    ("ft-transformer", {"d_token": 8, "num_heads": 2}),
]
EQUAL = [12] * 4
UNEQUAL = [5, 23, 1, 0, 12, 8]
Matrix = npt.NDArray[np.float32]


def new_model(name: str = "mlp", **own: object) -> nn.Module:
    with seeded_global_torch(1):
        return build(name, dense_layout(6), 3, own)


def tables(sizes: list[int]) -> list[PatientDataset]:
    return [generated_table(size, 6, seed=site) for site, size in enumerate(sizes)]


def starts(model: nn.Module, num_sites: int) -> Matrix:
    """Return another start for each site."""
    vector = ParameterSet.of(model).flatten(model.state_dict())
    noise = np.random.default_rng(0).normal(size=(num_sites, len(vector)))
    return (vector + 0.1 * noise).astype(np.float32)


def row_of(correction: Correction | None, site: int) -> Correction | None:
    if correction is None or correction.vector.ndim == 1:
        return correction
    if isinstance(correction, Pull):
        return Pull(correction.shared, correction.strength, correction.anchor[site])
    return Shift(correction.shared, correction.by[site])


def one_by_one(
    model: nn.Module,
    datasets: list[PatientDataset],
    start_SD: Matrix,
    step: PlainStep,
    sampler: Sampler,
) -> StackedResult:
    full = ParameterSet.of(model)
    results, vectors = [], []
    for site, (data, rng) in enumerate(zip(datasets, site_rngs(len(datasets)), strict=True)):
        full.load(model, start_SD[site])
        own = PlainStep(step.loss_per_sample, step.optimizer, row_of(step.correction, site))
        results.append(train_locally(model, data, step=own, sampler=sampler, rng=rng))
        vectors.append(full.flatten(model.state_dict()))
    return StackedResult(results, np.stack(vectors))


def assert_equal_to_one_by_one(
    model: nn.Module,
    datasets: list[PatientDataset],
    step: PlainStep,
    sampler: Sampler,
    *,
    tolerance: float = 1e-5,
) -> None:
    start_SD = starts(model, len(datasets))
    rngs = site_rngs(len(datasets))
    ours = train_stacked(model, datasets, start_SD, step=step, sampler=sampler, rngs=rngs)
    theirs = one_by_one(model, datasets, start_SD, step, sampler)
    np.testing.assert_allclose(ours.vectors_SD, theirs.vectors_SD, rtol=0, atol=tolerance)
    assert ours.vectors_SD.dtype == np.float32
    for our, their, data in zip(ours.results, theirs.results, datasets, strict=True):
        assert our.loss == pytest.approx(their.loss, abs=tolerance, nan_ok=True)
        assert (our.num_steps, our.num_examples) == (their.num_steps, len(data))
    assert np.abs(ours.vectors_SD - start_SD).max() > 100 * tolerance  # something was learned


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("name", "own"), MODELS)
def test_stacked_sites_learn_what_each_learns_alone(
    name: str, own: dict[str, object], settings: OptimizerSettings, sizes: list[int]
) -> None:
    step = PlainStep(cross_entropy, settings)
    model = new_model(name, **own)
    assert_equal_to_one_by_one(model, tables(sizes), step, ShuffleSampler(5, epochs=2))


def corrections(shared: ParameterSet, num_sites: int) -> dict[str, Correction]:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(num_sites, shared.size)).astype(np.float32)
    return {
        "fedprox": Pull(shared, 0.5, matrix[0]),
        "ditto": Pull(shared, 0.5, matrix),
        "scaffold": Shift(shared, matrix),
    }


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("patterns", [["*"], ["body.*"], ["!head.weight", "*bias"]], ids=str)
@pytest.mark.parametrize("name", ["fedprox", "ditto", "scaffold"])
def test_so_they_do_with_what_a_strategy_adds_to_the_gradient(
    name: str, patterns: list[str], settings: OptimizerSettings
) -> None:
    model = new_model(hidden=[8])
    correction = corrections(ParameterSet.of(model, patterns), len(UNEQUAL))[name]
    step = PlainStep(cross_entropy, settings, correction)
    assert_equal_to_one_by_one(model, tables(UNEQUAL), step, ShuffleSampler(5, epochs=2))


def test_a_correction_is_felt() -> None:
    model, datasets = new_model(), tables(EQUAL)
    start_SD = starts(model, len(datasets))
    correction = corrections(ParameterSet.of(model), len(datasets))["scaffold"]
    plain, corrected = (
        train_stacked(
            model,
            datasets,
            start_SD,
            step=PlainStep(cross_entropy, SGD, each),
            sampler=ShuffleSampler(5, epochs=1),
            rngs=site_rngs(len(datasets)),
        )
        for each in (None, correction)
    )
    assert np.abs(plain.vectors_SD - corrected.vectors_SD).max() > 0.1


def test_a_chunk_is_cut_to_the_memory_limit_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, datasets = new_model(), tables(UNEQUAL)
    step = PlainStep(cross_entropy, SGD, corrections(ParameterSet.of(model), 6)["scaffold"])
    drawn = [
        draw(data, ShuffleSampler(5, epochs=1), rng)
        for data, rng in zip(datasets, site_rngs(6), strict=True)
    ]
    assert len(stacked._chunks(model, datasets, drawn)) == 1
    monkeypatch.setattr(stacked, "MEMORY_LIMIT_BYTES", 20 * 4 * ParameterSet.of(model).size)
    assert [len(chunk) for chunk in stacked._chunks(model, datasets, drawn)] == [2, 2, 2]
    assert_equal_to_one_by_one(model, datasets, step, ShuffleSampler(5, epochs=2))


class OddSampler:
    """Draws batches of any size, empty ones among them: stands for a Poisson sampler."""

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        for _ in range(6):
            chosen = torch.rand(num_patients, generator=rng) < 0.2
            yield IndexBatch(chosen.nonzero()[:, 0], 0, is_last_of_epoch=False)


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_so_they_do_with_batches_of_any_size(settings: OptimizerSettings) -> None:
    step = PlainStep(cross_entropy, settings)
    assert_equal_to_one_by_one(new_model(), tables(UNEQUAL), step, OddSampler())


def test_so_they_do_with_several_rows_per_patient() -> None:
    datasets = [
        PatientDataset(tables([10])[0].rows, starts=torch.tensor(cuts))
        for cuts in ([0, 3, 3, 4, 9, 10], [0, 1, 10], [0, 10])
    ]
    step = PlainStep(cross_entropy, SGD)
    assert_equal_to_one_by_one(new_model(), datasets, step, ShuffleSampler(2, epochs=2))


def test_so_they_do_with_a_number_of_steps() -> None:
    step = PlainStep(cross_entropy, SGD)
    assert_equal_to_one_by_one(new_model(), tables(UNEQUAL), step, ShuffleSampler(4, steps=7))


def test_frozen_parameters_stay_and_come_back_with_the_others() -> None:
    model = new_model(hidden=[8])
    model.get_submodule("head").requires_grad_(requires_grad=False)
    step = PlainStep(cross_entropy, OptimizerSettings("sgd", 0.1, weight_decay=0.1))
    assert_equal_to_one_by_one(model, tables(UNEQUAL), step, ShuffleSampler(5, epochs=2))


def test_one_start_serves_all_sites_and_the_model_keeps_its_weights() -> None:
    model, datasets = new_model(), tables(UNEQUAL)
    full = ParameterSet.of(model)
    start = full.flatten(model.state_dict())
    start.flags.writeable = False  # as it comes from a message
    step = PlainStep(cross_entropy, SGD)
    sampler = ShuffleSampler(5, epochs=1)
    one, many = (
        train_stacked(model, datasets, each, step=step, sampler=sampler, rngs=site_rngs(6))
        for each in (start, np.tile(start, (6, 1)))
    )
    np.testing.assert_array_equal(one.vectors_SD, many.vectors_SD)
    np.testing.assert_array_equal(full.flatten(model.state_dict()), start)


def test_a_site_without_patients_keeps_its_start_and_has_no_loss() -> None:
    model, datasets = new_model(), tables([0, 0])
    start_SD = starts(model, 2)
    result = train_stacked(
        model,
        datasets,
        start_SD,
        step=PlainStep(cross_entropy, SGD),
        sampler=ShuffleSampler(5, epochs=1),
        rngs=site_rngs(2),
    )
    np.testing.assert_array_equal(result.vectors_SD, start_SD)
    assert [each.num_steps for each in result.results] == [0, 0]
    assert np.isnan([each.loss for each in result.results]).all()


def test_one_sites_overflow_stays_with_that_site() -> None:
    model, datasets = new_model(), tables([5, 12, 12])
    broken = dict(datasets[1].rows)
    broken["features"] = broken["features"] * float("inf")
    spoilt = [datasets[0], PatientDataset(broken), datasets[2]]
    clean, dirty = (
        train_stacked(
            model,
            each,
            starts(model, 3),
            step=PlainStep(cross_entropy, SGD),
            sampler=ShuffleSampler(5, epochs=1),
            rngs=site_rngs(3),
        ).vectors_SD
        for each in (datasets, spoilt)
    )
    np.testing.assert_array_equal(clean[[0, 2]], dirty[[0, 2]])
    assert not np.isfinite(dirty[1]).all()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("cnn", {}),
        ("mlp", {"norm": "batch"}),
        ("mlp", {"dropout": 0.1}),
        ("ft-transformer", {"dropout": 0.1}),
    ],
)
def test_what_cannot_be_stacked_is_refused(name: str, own: dict[str, object]) -> None:
    model = new_model(name, **own)
    assert not can_stack(model)
    with pytest.raises(ValueError, match="cannot be trained stacked"):
        train_stacked(
            model,
            tables([3]),
            starts(model, 1),
            step=PlainStep(cross_entropy, SGD),
            sampler=ShuffleSampler(2, epochs=1),
            rngs=site_rngs(1),
        )


def test_a_users_own_network_and_other_precisions_are_not_stacked() -> None:
    class OwnNet(nn.Module):
        pass

    assert not can_stack(OwnNet())
    assert not can_stack(nn.Sequential(nn.Linear(2, 2)))
    assert not can_stack(new_model().double())
    assert can_stack(new_model())
