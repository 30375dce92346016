"""A privacy claim in full: the numbers mean nothing without what they are about."""

from dataclasses import asdict, dataclass
from typing import Any

UNIT = "patient: all records of one patient at this site together, with their labels"
NEIGHBOURHOOD = "two cohorts of which one has one patient more (add or remove one)"
SAMPLING = "Poisson: every patient is drawn for every step by a coin of its own"
COMPOSITION = (
    "adaptive, over all rounds, restarts and studies that used one of these patients, each with "
    "all the steps that were planned (Renyi differential privacy; Lecuyer 2021, arXiv:2103.01379)"
)
NOT_COVERED = (
    "figures of test patients, such as AUROC: they are exact",
    "the number of patients and which columns are recorded: both are taken to be known",
    "a patient who is in the cohorts of several sites: the sites' budgets add up",
    "what follows about a patient from what is true of all, such as an effect of smoking",
    "releases outside of this ledger: before it was begun, or by other software",
    "the spacing of floating-point numbers, and how long a computation takes",
)


@dataclass(frozen=True)
class PrivacyClaim:
    """What is promised to each patient, and what is not."""

    epsilon: float
    delta: float
    unit: str
    neighbourhood: str
    mechanism: str
    sampling: str
    composition: str
    noise: str
    is_reproducible: bool
    """Whether the noise follows from a seed: then the claim holds only against those who cannot
    know or guess it."""
    not_covered: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "not_covered": list(self.not_covered)}


def dp_sgd_claim(epsilon: float, delta: float, *, is_reproducible: bool = False) -> PrivacyClaim:
    """Return the claim that goes with what a site spent on training by DP-SGD.

    Args:
        epsilon: of everything that was done with the patients.
        delta: of the site's budget.
        is_reproducible: whether the noise came from a seed, as in simulations.
    """
    noise = "follows from a seed" if is_reproducible else "from a cryptographic generator"
    return PrivacyClaim(
        epsilon=epsilon,
        delta=delta,
        unit=UNIT,
        neighbourhood=NEIGHBOURHOOD,
        mechanism="DP-SGD: each patient's gradient is clipped, Gaussian noise is added to the sum",
        sampling=SAMPLING,
        composition=COMPOSITION,
        noise=noise,
        is_reproducible=is_reproducible,
        not_covered=NOT_COVERED,
    )
