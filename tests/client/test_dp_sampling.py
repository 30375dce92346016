"""Patients are drawn by independent coins, at the rate that is accounted."""

import pytest
import torch
from scipy.stats import binom, chi2

from fedward.client.privacy.sampling import PoissonSampler, capped
from fedward.common.privacy.noise import SecretNoise
from fedward.common.task import PatientDataset
from tests.client.plain_training import generated_table

ERROR_RATE = 1e-6
KEY = bytes(range(32))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(sampler: PoissonSampler, num_patients: int) -> torch.Tensor:
    """Return (steps, patients), whether each was drawn."""
    batches = list(sampler(num_patients, rng()))
    found = torch.zeros(len(batches), num_patients, dtype=torch.bool)
    for row, batch in zip(found, batches, strict=True):
        row[batch.indices] = True
    return found


@pytest.mark.parametrize("secret", [None, SecretNoise(KEY)], ids=["seeded", "secret"])
def test_every_patient_is_drawn_at_the_rate(secret: SecretNoise | None) -> None:
    found = drawn(PoissonSampler(5, steps=5_000, secret=secret), 40)
    total = int(found.sum())
    p_value = 2 * min(
        binom.cdf(total, found.numel(), 5 / 40), binom.sf(total - 1, found.numel(), 5 / 40)
    )
    assert p_value > ERROR_RATE
    # And none more often than another.
    expected = 5_000 * 5 / 40
    counts = found.sum(0).double()
    statistic = float(((counts - expected) ** 2).sum() / (expected * (1 - 5 / 40)))
    assert chi2.sf(statistic, 40) > ERROR_RATE


@pytest.mark.parametrize("secret", [None, SecretNoise(KEY)], ids=["seeded", "secret"])
def test_patients_are_drawn_independently_so_that_batches_vary_in_size(
    secret: SecretNoise | None,
) -> None:
    """A shuffled pass has the rate as well, but batches of equal size."""
    sizes = drawn(PoissonSampler(5, steps=5_000, secret=secret), 40).sum(1).double()
    variance = 40 * (5 / 40) * (1 - 5 / 40)
    statistic = float(((sizes - 5) ** 2).sum()) / variance
    below = float(chi2.cdf(statistic, len(sizes)))
    assert 2 * min(below, 1 - below) > ERROR_RATE


def test_empty_batches_are_yielded() -> None:
    sizes = drawn(PoissonSampler(1, steps=2000), 3).sum(1)
    empty = int((sizes == 0).sum())
    chance = (1 - 1 / 3) ** 3
    assert binom.cdf(empty, 2000, chance) > ERROR_RATE
    assert binom.sf(empty - 1, 2000, chance) > ERROR_RATE


def test_a_site_smaller_than_a_batch_takes_part_whole_in_every_step() -> None:
    sampler = PoissonSampler(64, epochs=3)
    assert drawn(sampler, 10).all()
    assert (sampler.rate(10), sampler.num_steps(10)) == (1.0, 3)


def test_steps_and_epochs_are_those_of_plain_training() -> None:
    batches = list(PoissonSampler(4, epochs=2)(11, rng()))
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1]
    assert [batch.is_last_of_epoch for batch in batches] == [False, False, True] * 2
    assert len(list(PoissonSampler(4, steps=5)(11, rng()))) == 5
    assert list(PoissonSampler(4, epochs=2)(0, rng())) == []
    with pytest.raises(ValueError, match="exactly one"):
        PoissonSampler(4)


def test_the_secret_coins_do_not_follow_from_the_seed_of_the_round() -> None:
    batches = [list(PoissonSampler(5, steps=50, secret=SecretNoise())(40, rng())) for _ in range(2)]
    assert any(not torch.equal(a.indices, b.indices) for a, b in zip(*batches, strict=True))


def test_a_cap_keeps_so_many_rows_of_each_patient() -> None:
    rows = generated_table(11, 3, seed=1).rows
    data = PatientDataset(
        {**rows, "patient_id": torch.tensor([4] * 6 + [9] + [2] * 4)},
        torch.tensor([0, 6, 6, 7, 11]),
    )
    found = capped(data, 3, rng())
    assert found.starts is not None
    assert found.starts.tolist() == [0, 3, 3, 4, 7]
    assert found.rows["patient_id"].tolist() == [4, 4, 4, 9, 2, 2, 2]
    originals = {tuple(row) for row in rows["features"].tolist()}
    kept = {tuple(row) for row in found.rows["features"].tolist()}
    assert kept <= originals
    assert len(kept) == 7
    assert len(found) == len(data)


def test_a_cap_that_nobody_reaches_changes_nothing() -> None:
    data = generated_table(5, 3, seed=1)
    assert capped(data, 1, rng()) is data
    several = PatientDataset(data.rows, torch.tensor([0, 2, 5]))
    assert capped(several, 3, rng()) is several
