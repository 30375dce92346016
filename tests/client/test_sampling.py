"""Which patients are drawn."""

import pytest
import torch

from fedward.client.sampling import ShuffleSampler


@pytest.mark.parametrize("num_patients", [0, 1, 7, 8])
def test_every_patient_is_drawn_once_per_epoch(num_patients: int) -> None:
    rng = torch.Generator().manual_seed(1)
    batches = list(ShuffleSampler(4, epochs=2)(num_patients, rng))
    for epoch in (0, 1):
        drawn = [b for b in batches if b.epoch == epoch]
        indices = torch.cat([b.indices for b in drawn]).tolist() if drawn else []
        assert sorted(indices) == list(range(num_patients))
        assert [b.is_last_of_epoch for b in drawn] == [False] * (len(drawn) - 1) + [True] * bool(
            drawn
        )


def test_a_number_of_steps_may_end_in_the_middle_of_an_epoch() -> None:
    batches = list(ShuffleSampler(2, steps=4)(5, torch.Generator().manual_seed(1)))
    assert [len(b.indices) for b in batches] == [2, 2, 1, 2]
    assert [b.epoch for b in batches] == [0, 0, 0, 1]
    assert [b.is_last_of_epoch for b in batches] == [False, False, True, False]
    assert list(ShuffleSampler(2, steps=4)(0, torch.Generator())) == []


@pytest.mark.parametrize("num_patients", [0, 1, 4, 5, 11])
@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 5}], ids=str)
def test_the_number_of_steps_is_known_before_they_are_drawn(
    num_patients: int, length: dict[str, int]
) -> None:
    sampler = ShuffleSampler(4, **length)
    drawn = list(sampler(num_patients, torch.Generator().manual_seed(1)))
    assert sampler.num_steps(num_patients) == len(drawn)
    first = [batch for batch in drawn if batch.epoch == 0]
    assert sampler.steps_per_epoch(num_patients) >= len(first)
    if drawn and drawn[-1].epoch > 0:
        assert sampler.steps_per_epoch(num_patients) == len(first)
