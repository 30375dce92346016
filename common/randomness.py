"""Every random number of a run, derived from one seed by (site, round, purpose).

The same (seed, site, round, purpose) gives the same numbers in every process, so it does not
matter which worker trains a site, or whether a run was interrupted and resumed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(seed: int, *, purpose: str, site: str = "", round_number: int = 0) -> int:
    """Return a 63-bit seed for one purpose of one site in one round.

    Source: ours; SHA-256 of the joined names, so that similar names give unrelated seeds.
    """
    text = f"{seed}\x1f{site}\x1f{round_number}\x1f{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(
    seed: int, *, purpose: str, site: str = "", round_number: int = 0
) -> torch.Generator:
    """Return a CPU generator for one purpose of one site in one round."""
    generator = torch.Generator()
    generator.manual_seed(seed_for(seed, purpose=purpose, site=site, round_number=round_number))
    return generator


def numpy_generator(
    seed: int, *, purpose: str, site: str = "", round_number: int = 0
) -> np.random.Generator:
    """Return a numpy generator for one purpose of one site in one round."""
    return np.random.default_rng(
        seed_for(seed, purpose=purpose, site=site, round_number=round_number)
    )


@contextmanager
def seeded_global_torch(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block, and restore it afterwards.

    For what takes no generator argument: dropout and the initialisation of layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - the one exempt place
        yield
