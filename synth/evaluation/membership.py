"""Was this patient in the training table? Attacks on membership, per class and for outliers.

The attacker holds the released rows, further rows of the population (`reference`), and the full
row of the patient in question, class included; not the synthesiser, nor its draws. What is found
is a lower bound of what can be found.

`density` is the density ratio of DOMIAS (van Breugel et al. 2023, AISTATS, arXiv:2302.12580):
a patient is the more likely a member the more released rows are around, compared with how many
patients of the population are,

    score(x) = log p_synthetic(x) - log p_reference(x)

with kernel densities within the patient's class. Bandwidths (ours) are multiples of the distance
between neighbouring patients of the reference: 0.85 for the released rows and 2 for the reference,
which is smoother because it has fewer rows. On PhysioNet 2019 they come close to a logistic
regression on the densities at many bandwidths that was shown who the other members are.

`density_gaps` is the same with the pattern of missing values as further coordinates; tried where
released rows have gaps. Which tests were ordered for a patient is nearly a fingerprint: patterns
copied whole from members give them away even beside values that do not.

`nearest` is minus the distance to the nearest released row.

Figures of all patients and of outliers compare within classes, see `risk.mean_risk`. Outliers are
the fifth of members and others of a class in the least dense places of the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedward.synth.evaluation.neighbours import (
    Rows,
    RowSpace,
    log_density,
    nearest,
    spacing,
)
from fedward.synth.evaluation.risk import (
    FPR,
    MIN_PATIENTS,
    Floats,
    Risk,
    auc_risk,
    mean_risk,
    no_risk_known,
    tpr_risk,
)
from fedward.synth.evaluation.trial import Trial

SYNTHETIC_BANDWIDTH = 0.85
REFERENCE_BANDWIDTH = 2.0
OUTLIER_SHARE = 0.2
OUTLIERS = "outliers"


@dataclass(frozen=True, repr=False)
class _ClassRows:
    """The rows of one class as points."""

    group: str
    members_MD: Rows
    others_OD: Rows
    reference_RD: Rows
    synthetic_SD: Rows
    unit: float
    """Of bandwidths: `spacing` of the reference."""


@dataclass(frozen=True, repr=False)
class _Scores:
    """What one attack says of one class."""

    group: str
    member: Floats
    other: Floats
    rarity_member: Floats
    """Minus the log density of the reference there."""
    rarity_other: Floats


Attack = Callable[[Rows, _ClassRows], Floats]
"""Scores the rows of its first argument: the higher, the more likely a member."""


def membership_risks(trial: Trial) -> tuple[Risk, ...]:
    """Return AUC and TPR at 1 % FPR of each attack: for all patients, per class, for outliers.

    Names are `density_auc`, `density_tpr`, `density_gaps_auc`, ... A class with fewer than 20
    members, others, rows of the reference or released rows has no figure.
    """
    classes = _classes(trial, RowSpace(trial.columns, trial.reference))
    risks = _figures("density", _scores(classes, _density))
    if trial.synthetic[list(trial.columns.names)].isna().any(axis=None):
        space = RowSpace(trial.columns, trial.reference, gaps_of=trial.synthetic)
        risks += _figures("density_gaps", _scores(_classes(trial, space), _density))
    return tuple(risks + _figures("nearest", _scores(classes, _nearest)))


def _density(query_QD: Rows, rows: _ClassRows) -> Floats:
    released = log_density(query_QD, rows.synthetic_SD, SYNTHETIC_BANDWIDTH * rows.unit)
    return released - log_density(query_QD, rows.reference_RD, REFERENCE_BANDWIDTH * rows.unit)


def _nearest(query_QD: Rows, rows: _ClassRows) -> Floats:
    return -nearest(query_QD, rows.synthetic_SD)[0][:, 0]


def _classes(trial: Trial, space: RowSpace) -> list[_ClassRows | Risk]:
    """Return the rows of each class; for a class that is too small, a risk that says so."""
    tables = {
        "members": trial.members,
        "patients who were not in training": trial.non_members,
        "reference rows": trial.reference,
        "released rows": trial.synthetic,
    }
    points = {name: space(frame) for name, frame in tables.items()}
    found: list[_ClassRows | Risk] = []
    for group, value in trial.strata():
        own = {name: points[name][trial.is_of(frame, value)] for name, frame in tables.items()}
        few = [f"{len(rows)} {name}" for name, rows in own.items() if len(rows) < MIN_PATIENTS]
        if few:
            reason = f"{few[0]}, fewer than {MIN_PATIENTS}"
            found.append(no_risk_known("", group, 0.5, len(own["members"]), reason))
            continue
        members, others, reference, released = own.values()
        unit = spacing(reference, len(trial.columns))
        found.append(_ClassRows(group, members, others, reference, released, unit))
    return found


def _scores(classes: list[_ClassRows | Risk], attack: Attack) -> list[_Scores | Risk]:
    return [
        rows
        if isinstance(rows, Risk)
        else _Scores(
            rows.group,
            attack(rows.members_MD, rows),
            attack(rows.others_OD, rows),
            _rarity(rows.members_MD, rows),
            _rarity(rows.others_OD, rows),
        )
        for rows in classes
    ]


def _rarity(query_QD: Rows, rows: _ClassRows) -> Floats:
    return -log_density(query_QD, rows.reference_RD, REFERENCE_BANDWIDTH * rows.unit)


def _figures(name: str, scores: list[_Scores | Risk]) -> list[Risk]:
    per_class = [_both(name, score) for score in scores]
    outliers = [_both(name, _rarest(score)) for score in scores]
    risks = _means(per_class)
    if len(scores) > 1:
        risks += [risk for both in per_class for risk in both]
    return risks + [replace(risk, group=OUTLIERS) for risk in _means(outliers)]


def _means(per_class: list[tuple[Risk, Risk]]) -> list[Risk]:
    return [mean_risk(risks) for risks in zip(*per_class, strict=True)]


def _both(name: str, score: _Scores | Risk) -> tuple[Risk, Risk]:
    auc, tpr = f"{name}_auc", f"{name}_tpr"
    if isinstance(score, Risk):
        return replace(score, name=auc), replace(score, name=tpr, baseline=FPR)
    return (
        auc_risk(auc, score.group, score.member, score.other),
        tpr_risk(tpr, score.group, score.member, score.other),
    )


def _rarest(score: _Scores | Risk) -> _Scores | Risk:
    if isinstance(score, Risk):
        return score
    rarity = np.concatenate([score.rarity_member, score.rarity_other])
    least = np.quantile(rarity, 1 - OUTLIER_SHARE)
    return replace(
        score,
        member=score.member[score.rarity_member >= least],
        other=score.other[score.rarity_other >= least],
    )
