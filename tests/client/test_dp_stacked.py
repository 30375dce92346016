"""Private training of many stacked sites equals that of one site after the other."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedward.client.optimizers import OptimizerSettings
from fedward.client.privacy.ghost import clipped_sums, recorded, trained_layers
from fedward.client.privacy.method import Method
from fedward.client.privacy.patients import Patients
from fedward.client.privacy.sampling import PoissonSampler
from fedward.client.privacy.stack import PrivateSite
from fedward.client.privacy.step import Mechanism, PrivateStep
from fedward.client.sampling import IndexBatch
from fedward.client.stacked import StackedResult, train_stacked
from fedward.client.training import LocalResult, PlainStep, train_locally
from fedward.common.models import build
from fedward.common.parameters import ParameterSet
from fedward.common.privacy.noise import NoiseSource, SeededNoise
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import PatientDataset
from tests.client.plain_training import cross_entropy, dense_layout, generated_table
from tests.client.private_training import plain_gradients

SAMPLER = PoissonSampler(3, epochs=4)
SIZES = (2, 9, 13, 5)
ADAM = OptimizerSettings("adam", 0.01)
MODELS = [
    ("logistic-regression", {}),
    ("mlp", {"hidden": [8, 4], "norm": "layer"}),
    ("ft-transformer", {"d_token": 8, "num_heads": 2}),
]


def new_model(name: str, own: dict[str, object]) -> nn.Module:
    with seeded_global_torch(1):
        return build(name, dense_layout(5), 2, own).train()


def datasets(*, several: bool) -> list[PatientDataset]:
    """Return sites of different sizes; with `several`, of patients with 1 to 3 rows."""
    found = []
    for site, size in enumerate(SIZES):
        if not several:
            found.append(generated_table(size, 5, seed=site))
            continue
        num_rows = torch.arange(size) % 3 + 1
        rows = dict(generated_table(int(num_rows.sum()), 5, seed=site).rows)
        rows["patient_id"] = torch.arange(size).repeat_interleave(num_rows)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), num_rows.cumsum(0)])
        found.append(PatientDataset(rows, starts))
    return found


def noise(site: int) -> NoiseSource:
    return SeededNoise(torch.Generator().manual_seed(100 + site))


def mechanism(site: int) -> Mechanism:
    """Return another mechanism for each site."""
    return Mechanism(0.5 + site, 0.1 * (site + 1), 2.0 + site)


def rngs() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(site) for site in range(len(SIZES))]


def stacked(model: nn.Module, data: list[PatientDataset]) -> StackedResult:
    return train_stacked(
        model,
        data,
        ParameterSet.of(model).flatten(model.state_dict()),
        step=PlainStep(cross_entropy, ADAM),
        sampler=SAMPLER,
        rngs=rngs(),
        private=[PrivateSite(mechanism(site), noise(site)) for site in range(len(SIZES))],
    )


@pytest.mark.parametrize("several", [False, True], ids=["one record", "several"])
@pytest.mark.parametrize(("name", "own"), MODELS, ids=[name for name, _ in MODELS])
def test_every_site_learns_what_it_learns_alone(
    name: str, own: dict[str, object], *, several: bool
) -> None:
    model, data = new_model(name, own), datasets(several=several)
    full = ParameterSet.of(model)
    start = full.flatten(model.state_dict())
    found = stacked(model, data)
    num_empty = 0
    for site, rng in enumerate(rngs()):
        full.load(model, start)
        step = PrivateStep(
            cross_entropy,
            ADAM,
            method=Method("dense"),
            mechanism=mechanism(site),
            noise=noise(site),
        )
        alone: LocalResult = train_locally(model, data[site], step=step, sampler=SAMPLER, rng=rng)
        np.testing.assert_allclose(
            found.vectors_SD[site], full.flatten(model.state_dict()), atol=2e-5
        )
        assert found.results[site].num_steps == alone.num_steps
        assert found.results[site].loss == pytest.approx(alone.loss, rel=1e-4)
        tally = step.tally.summary(step.mechanism, full.size)
        assert found.tallies[site] == pytest.approx(tally, rel=1e-4)
        num_empty += alone.num_steps - len(step.tally.norms)
    assert num_empty > 0


@pytest.mark.parametrize(("name", "own"), MODELS, ids=[name for name, _ in MODELS])
def test_the_clipped_sums_of_a_stack_are_exact_in_float64(
    name: str, own: dict[str, object]
) -> None:
    model = new_model(name, own).double()
    num_sites, num_rows = 3, 5
    generator = torch.Generator().manual_seed(2)
    weights = {
        key: tensor + 0.1 * torch.randn(num_sites, *tensor.shape, generator=generator).double()
        for key, tensor in model.named_parameters()
    }
    rows = dict(generated_table(num_sites * num_rows, 5, seed=1).rows)
    rows["features"] = rows["features"].double()
    by_site = {key: x.view(num_sites, num_rows, *x.shape[1:]) for key, x in rows.items()}
    bound_K = torch.tensor([0.05, 0.3, 10.0], dtype=torch.float64)
    leaves = {key: tensor.detach().requires_grad_() for key, tensor in weights.items()}
    with recorded(trained_layers(model)) as calls:
        outputs = functional_call(model, leaves, (by_site,))
        losses = cross_entropy(outputs.flatten(0, 1), rows)
    found = clipped_sums(
        calls,
        losses,
        Patients(num_sites * num_rows, device=losses.device),
        max_norm=bound_K.repeat_interleave(num_rows),
        num_sites=num_sites,
    )
    for site in range(num_sites):
        model.load_state_dict({key: tensor[site] for key, tensor in weights.items()})
        batch = {key: x[site] for key, x in by_site.items()}
        expected = plain_gradients(model, cross_entropy, batch).clipped_sum(float(bound_K[site]))
        sums = torch.cat([found.sums[key][site].reshape(-1) for key in weights])
        torch.testing.assert_close(sums, expected, rtol=0, atol=1e-12)


def test_a_record_that_is_not_a_number_stays_with_its_patient_also_as_padding() -> None:
    """A short batch is padded with one of the site's own rows, here the broken one."""
    model = new_model("mlp", {"hidden": [8]})
    broken, clean = datasets(several=False), datasets(several=False)
    broken[1].rows["features"][0] = torch.nan
    found, expected = stacked(model, broken), stacked(model, clean)
    assert np.isfinite(found.vectors_SD).all()
    for site in (0, 2, 3):
        np.testing.assert_array_equal(found.vectors_SD[site], expected.vectors_SD[site])
    # At its own site it is as if the patient were never drawn.
    full = ParameterSet.of(model)
    without = PatientDataset({key: x.clone() for key, x in clean[1].rows.items()})

    class Without:
        def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
            for batch in SAMPLER(num_patients, rng):
                yield batch._replace(indices=batch.indices[batch.indices != 0])

    step = PrivateStep(
        cross_entropy, ADAM, method=Method("dense"), mechanism=mechanism(1), noise=noise(1)
    )
    train_locally(model, without, step=step, sampler=Without(), rng=rngs()[1])
    np.testing.assert_allclose(found.vectors_SD[1], full.flatten(model.state_dict()), atol=2e-5)


def test_a_site_that_is_never_drawn_from_still_takes_its_noise_steps() -> None:
    class Nobody:
        def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
            for batch in SAMPLER(num_patients, rng):
                yield batch._replace(indices=batch.indices[:0])

    model, data = new_model("mlp", {"hidden": [8]}), datasets(several=False)
    start = ParameterSet.of(model).flatten(model.state_dict())
    found = train_stacked(
        model,
        data,
        start,
        step=PlainStep(cross_entropy, OptimizerSettings("sgd", 1.0)),
        sampler=Nobody(),
        rngs=rngs(),
        private=[PrivateSite(mechanism(site), noise(site)) for site in range(len(SIZES))],
    )
    for site, result in enumerate(found.results):
        assert result.num_steps == SAMPLER.num_steps(SIZES[site])
        each = noise(site).normals(result.num_steps * len(start)).view(result.num_steps, -1)
        moved = each.sum(0) * mechanism(site).deviation / mechanism(site).expected_patients
        np.testing.assert_allclose(start - found.vectors_SD[site], moved.numpy(), atol=1e-5)
