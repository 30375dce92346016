"""What a synthetic table tells about the patients that it was made from.

Every figure has an interval and a baseline, and is a lower bound: an attack that fails here is no
proof that others do. None of this is a guarantee such as differential privacy gives.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from fedward.common.randomness import numpy_generator
from fedward.synth.evaluation.inference import inference_risks
from fedward.synth.evaluation.linkability import linkability_risk
from fedward.synth.evaluation.membership import membership_risks
from fedward.synth.evaluation.resemblance import Resemblance, resemblance
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.singling_out import singling_out_risks
from fedward.synth.evaluation.trial import Trial, make_trial
from fedward.synth.tables.columns import Columns


@dataclass(frozen=True)
class PrivacyReport:
    """All attacks on one table, at the number of rows that is released."""

    num_members: int
    num_holdout: int
    num_reference: int
    num_synthetic: int
    membership: tuple[Risk, ...]
    singling_out: tuple[Risk, ...]
    linkability: Risk
    inference: tuple[Risk, ...]
    """Of all secrets together, then of each."""
    resemblance: Resemblance | None
    """How close rows are to training rows: not a measure of privacy."""
    cautions: tuple[str, ...]
    """What the figures as a whole do not show."""

    @property
    def risks(self) -> tuple[Risk, ...]:
        """Every figure of every attack."""
        return (*self.membership, *self.singling_out, self.linkability, *self.inference)

    def risk(self, name: str, group: str = "all") -> Risk:
        """Return one figure, such as `density_auc` of a class.

        Raises:
            KeyError: no attack has a figure of this name for this group.
        """
        for risk in self.risks:
            if (risk.name, risk.group) == (name, group):
                return risk
        raise KeyError((name, group))

    def worst_membership(self) -> Risk | None:
        """Return the largest AUC of any membership attack on any group; None without a figure.

        The largest of several is above 0.5 by chance more often than each: look at its `low`.
        """
        known = [r for r in self.membership if r.name.endswith("_auc") and r.value is not None]
        return max(known, key=lambda risk: risk.value or 0.0, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON can hold them."""
        return asdict(self)


def evaluate_privacy(  # noqa: PLR0913 - the tables that a trial is made of
    columns: Columns,
    *,
    members: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame | None,
    reference: pd.DataFrame | None = None,
    seed: int = 0,
) -> PrivacyReport:
    """Return what attacks find out about `members` from `synthetic`.

    Args:
        columns: of all tables.
        members: rows that the synthesiser was fitted on.
        synthetic: all rows that are released; the leak may grow with their number.
        holdout: other patients of the same population, at best as many as members. Without them
            no figure means anything, so they are required.
        reference: further patients of it, known to the attacker; None: half of the holdout serves,
            and membership attacks are tried on the other half.
        seed: of all draws; the same seed gives the same figures.

    Raises:
        SiteDataError: there is no holdout, it repeats members, or a column is absent.
    """
    trial = make_trial(
        columns,
        members=members,
        synthetic=synthetic,
        holdout=holdout,
        reference=reference,
        seed=seed,
    )
    return _report(trial, seed, tuple(_cautions(trial, is_split=reference is None)))


def _report(trial: Trial, seed: int, cautions: tuple[str, ...]) -> PrivacyReport:
    return PrivacyReport(
        num_members=len(trial.members),
        num_holdout=len(trial.holdout),
        num_reference=len(trial.reference),
        num_synthetic=len(trial.synthetic),
        membership=membership_risks(trial),
        singling_out=singling_out_risks(trial, numpy_generator(seed, purpose="singling out")),
        linkability=linkability_risk(trial, numpy_generator(seed, purpose="linkability")),
        inference=inference_risks(trial, numpy_generator(seed, purpose="inference")),
        resemblance=resemblance(trial, numpy_generator(seed, purpose="resemblance")),
        cautions=cautions,
    )


def _cautions(trial: Trial, *, is_split: bool) -> Iterator[str]:
    num_members, num_holdout = len(trial.members), len(trial.holdout)
    if num_holdout < num_members:
        yield (
            f"the holdout has {num_holdout} patients, fewer than the {num_members} members: "
            "singling out is tried on as many members only, which understates it"
        )
    if is_split:
        yield (
            f"no reference was given: the attacker of memberships knows {len(trial.reference)} "
            "patients of the holdout; one who knows more succeeds more often"
        )
