"""Clipped and noised updates: what hides a whole site, in the privacy modes `central` and `local`.

The unit is the site. An update is new minus received parameters; its length is cut to C.

* `central`: the server adds one noise to the mean of a round. Whoever runs the server is trusted
  with every site's update; those who see the models are not. Neighbours are two federations, in one
  of which a site's update is nothing (zero): sums of updates differ by C at most.
* `local`: the site adds noise to its own update, and nobody outside it is trusted. Neighbours are
  any two cohorts that the site could have: their updates differ by 2 C at most.

Both are the Gaussian mechanism with everybody in it (sampling rate 1): the sites of a round are
drawn in a fixed number from the seed of the run, which everybody knows, so that no credit may be
taken for the draw.

Source: McMahan et al. 2018, arXiv:1710.06963, Algorithm 1 (FlatClip, weights of 1); the neighbours
of `local` are those of local differential privacy (Kasiviswanathan et al. 2011, arXiv:0803.0924).
Legend: D parameters.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fedward.common.config.privacy import PrivacyConfig
from fedward.common.errors import SiteDataError
from fedward.common.privacy.accounting import Segment
from fedward.common.privacy.checks import check_delta
from fedward.common.privacy.noise import NoiseSource
from fedward.common.privacy.targets import noise_for
from fedward.common.vectors import Vector

Floats = npt.NDArray[np.float64]
SLACK = 1e-12
"""Relative: rounding must not leave an update longer than the bound."""


def clipped(new: Vector, received: Vector, max_norm: float) -> tuple[Floats, bool]:
    """Return new minus received parameters, no longer than `max_norm`, and whether it was cut.

    An update of zero stays zero. Computed in float64: float32 would leave it longer by chance.

    Args:
        new: (D,) what a site trained.
        received: (D,) what it began with.
        max_norm: C > 0, an L2 norm.

    Raises:
        SiteDataError: a value is NaN or infinite, which no bound would hold.
    """
    update = new.astype(np.float64) - received.astype(np.float64)
    norm = float(np.linalg.norm(update))
    if not math.isfinite(norm):
        raise SiteDataError(
            "training gave NaN or infinite values; nothing is sent. Try a smaller "
            "local.learning_rate"
        )
    if norm <= max_norm:
        return update, False
    return update * (max_norm / norm * (1 - SLACK)), True


@dataclass(frozen=True)
class UpdateNoise:
    """How long an update may be, and how much noise hides it."""

    max_norm: float
    """C."""
    noise_multiplier: float
    """Standard deviation of the noise over the sensitivity."""
    delta: float
    epsilon: float | None
    """The most that all rounds may spend; None: what they come to."""
    is_local: bool
    """Whether each site adds noise of its own."""

    @classmethod
    def of(cls, privacy: PrivacyConfig, rounds: int) -> Self:
        """Return that of a run in one of the modes `central` and `local`.

        Raises:
            ConfigError: no noise is enough for so many rounds.
        """
        assert privacy.protects_sites
        assert privacy.max_update_norm is not None
        delta, noise = check_delta(privacy.delta), privacy.noise_multiplier
        if noise is None:
            assert privacy.epsilon is not None
            noise = noise_for(privacy.epsilon, delta, sample_rate=1.0, num_steps=rounds)
        is_local = privacy.mode == "local"
        return cls(privacy.max_update_norm, noise, delta, privacy.epsilon, is_local)

    @property
    def sensitivity(self) -> float:
        """How far what is noised can lie from that of a neighbour."""
        return 2 * self.max_norm if self.is_local else self.max_norm

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise of each parameter: of a sum, or of a site's update."""
        return self.noise_multiplier * self.sensitivity

    @property
    def of_a_round(self) -> Segment:
        """What a round costs."""
        return Segment(self.noise_multiplier, 1.0, 1)

    def noised(self, update: Floats, source: NoiseSource) -> Floats:
        """Return (D,) an update, or a sum of updates, with noise."""
        noise: Floats = source.normals(len(update)).numpy().astype(np.float64)
        return update + self.deviation * noise

    def signal_to_noise(self, noised: Floats) -> float:
        """Return an estimate of the length of what is below the noise, over that of the noise.

        It is computed from what is released, and so tells no more than that: the square of its
        length is on average that of the signal plus D deviations squared. 0 where it is shorter.
        """
        expected = len(noised) * self.deviation**2
        return math.sqrt(max(float(noised @ noised) - expected, 0.0) / expected) if expected else 0

    def drowning(self, *, num_sites: int, num_parameters: int) -> str | None:
        """Return a warning where the noise of a round is longer than any update; None elsewhere.

        The mean of updates is no longer than C. Its noise has a length of about deviation times
        sqrt(D) / n in `central`, and sqrt(D / n) in `local` (n noises, each of a site).

        Args:
            num_sites: n, that answer in a round.
            num_parameters: D, those that are shared and trained.
        """
        shared = math.sqrt(num_sites) if self.is_local else num_sites
        times = self.deviation * math.sqrt(num_parameters) / shared / self.max_norm
        if times < 1:
            return None
        return (
            f"with {num_sites} sites this noise is {times:.2g} times as long as the longest update "
            f"that a round can make (privacy.max_update_norm {self.max_norm:g}, {num_parameters} "
            "parameters). Protecting sites takes many of them: with few, protect patients instead "
            "(privacy.mode: dp-sgd), share fewer parameters, or allow a larger epsilon"
        )
