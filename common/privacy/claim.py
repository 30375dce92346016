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
EXACT_FIGURES = "figures of test patients, such as AUROC, where a run tells them exactly"
NOT_COVERED = (
    EXACT_FIGURES,
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


def dp_sgd_claim(
    epsilon: float, delta: float, *, is_reproducible: bool = False, tells_exactly: bool = True
) -> PrivacyClaim:
    """Return the claim that goes with what a site spent on training by DP-SGD.

    Args:
        epsilon: of everything that was done with the patients.
        delta: of the site's budget.
        is_reproducible: whether the noise came from a seed, as in simulations.
        tells_exactly: whether figures of test patients may be told without noise.
    """
    covered = () if tells_exactly else (EXACT_FIGURES,)
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
        not_covered=tuple(one for one in NOT_COVERED if one not in covered),
    )


def update_claim(
    epsilon: float, delta: float, *, is_local: bool, is_reproducible: bool = False
) -> PrivacyClaim:
    """Return the claim of a run whose sites' updates are clipped and noised.

    Args:
        epsilon: of all rounds of the run.
        delta: of the run.
        is_local: whether each site adds noise of its own; else the server adds it to their mean.
        is_reproducible: whether the noise came from a seed, as in simulations.
    """
    if is_local:
        against = "whoever sees what leaves the site, the server included"
        neighbourhood = "any two cohorts that the site could have, with as many patients"
        mechanism = "each site's update is clipped, and it adds Gaussian noise to it before sending"
    else:
        against = "whoever sees the models that the server sends out; the server is trusted"
        neighbourhood = (
            "two federations, in one of which a site's update is nothing; who answers is known"
        )
        mechanism = (
            "each site's update is clipped, and the server adds Gaussian noise to their mean"
        )
    return PrivacyClaim(
        epsilon=epsilon,
        delta=delta,
        unit=f"site: the update of a whole hospital, not a patient; against {against}",
        neighbourhood=neighbourhood,
        mechanism=mechanism,
        sampling="none: sites are drawn in a fixed number by a known seed; it is given no credit",
        composition="adaptive, over all rounds of this run (Renyi differential privacy)",
        noise="follows from a seed" if is_reproducible else "from a cryptographic generator",
        is_reproducible=is_reproducible,
        not_covered=(
            "figures that sites report, such as AUROC: they are exact",
            "the number of patients, and which sites answer: both are taken to be known",
            "what follows about a site from what is true of all",
            "other runs with the same sites",
            "the spacing of floating-point numbers, and how long a computation takes",
        ),
    )
