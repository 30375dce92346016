"""Who takes part in a round: drawn by site id, so that simulated and deployed runs agree."""

from collections.abc import Sequence

from fedward.common.config.run import SamplingConfig
from fedward.common.randomness import numpy_generator


def sample_sites(
    site_ids: Sequence[str], sampling: SamplingConfig, *, seed: int, round_number: int
) -> list[str]:
    """Return the sites of one round, sorted; never fewer than `min_replies` if there are as many.

    Depends on the names of the sites, the seed and the round alone.
    """
    known = sorted(site_ids)
    wanted = num_sampled(len(known), sampling)
    if wanted == len(known):
        return known
    generator = numpy_generator(seed, purpose="sampling", round_number=round_number)
    picked = generator.choice(len(known), size=wanted, replace=False)
    return [known[index] for index in sorted(picked)]


def num_sampled(num_sites: int, sampling: SamplingConfig) -> int:
    """Return how many of a federation's sites take part in a round."""
    wanted = num_sites
    if sampling.num_sites is not None:
        wanted = sampling.num_sites
    elif sampling.fraction is not None:
        wanted = round(sampling.fraction * num_sites)
    return min(max(wanted, sampling.min_replies), num_sites)
