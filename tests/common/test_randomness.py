import subprocess
import sys

import torch

from fedward.common.randomness import (
    numpy_generator,
    seed_for,
    seeded_global_torch,
    torch_generator,
)


def test_a_seed_depends_on_each_of_its_parts_and_on_nothing_else() -> None:
    seeds = {
        seed_for(1, purpose="batches", site="a", round_number=1),
        seed_for(2, purpose="batches", site="a", round_number=1),
        seed_for(1, purpose="split", site="a", round_number=1),
        seed_for(1, purpose="batches", site="b", round_number=1),
        seed_for(1, purpose="batches", site="a", round_number=2),
    }
    assert len(seeds) == 5
    again = seed_for(1, purpose="batches", site="a", round_number=1)
    assert again in seeds


def test_another_process_draws_the_same() -> None:
    code = "from fedward.common.randomness import seed_for; print(seed_for(1, purpose='x'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == seed_for(1, purpose="x")


def test_the_global_generator_is_seeded_inside_and_restored_outside() -> None:
    state = torch.get_rng_state()
    with seeded_global_torch(5):
        inside = torch.rand(1)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded_global_torch(5):
        assert torch.equal(torch.rand(1), inside)


def test_generators_of_one_purpose_agree_and_of_two_do_not() -> None:
    draws = [torch.rand(1, generator=torch_generator(1, purpose=p)) for p in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    numbers = [numpy_generator(1, purpose=p).random() for p in ("a", "a", "b")]
    assert numbers[0] == numbers[1] != numbers[2]
