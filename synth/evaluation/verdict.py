"""May this cohort be shared? Yes or no, with the reasons in words that need no statistics.

Shareable is what passes every line of `thresholds.py` that blocks: attacks, copies, impossible
values, broken rules. Whether it is useful is a second answer: a cohort may be harmless and
worthless. A figure that is not there never counts as passed, and DCR never decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedward.common.task import Metric
from fedward.synth.evaluation.attack_reasons import attack_reasons
from fedward.synth.evaluation.copies import Copies
from fedward.synth.evaluation.fidelity import Fidelity
from fedward.synth.evaluation.plausibility import Plausibility
from fedward.synth.evaluation.privacy import PrivacyReport
from fedward.synth.evaluation.reason import (
    Reason,
    Topic,
    Weight,
    counted,
    listed,
    percent,
    two,
    with_interval,
)
from fedward.synth.evaluation.thresholds import CHANCE, DETECTION, LOSS
from fedward.synth.evaluation.utility import Comparison, Utility


@dataclass(frozen=True)
class Claim:
    """Differential privacy that a synthesiser states of itself, per patient."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Findings:
    """What the verdict is made from."""

    fidelity: Fidelity
    utility: Utility
    copies: Copies
    privacy: PrivacyReport | None
    no_privacy: str | None = None
    """Why there is no report on privacy."""
    claim: Claim | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer."""

    shareable: bool
    useful: bool | None
    """None where it cannot be said."""
    reasons: tuple[Reason, ...]
    """Those that block first, then privacy before validity before utility."""

    @property
    def blocking(self) -> tuple[Reason, ...]:
        """Why the cohort is not shareable."""
        return tuple(reason for reason in self.reasons if reason.weight == "blocks")


def verdict(findings: Findings) -> Verdict:
    """Return whether the cohort may be shared, and why (not)."""
    useful, of_use = _utility(findings.utility)
    reasons = [
        *_privacy(findings),
        *_copies(findings.copies),
        *_validity(findings.fidelity.plausibility),
        *of_use,
        *_detection(findings.fidelity.detection),
        *_claim(findings.claim),
    ]
    order = {"blocks": 0, "caution": 1, "supports": 1, "states": 2}
    reasons.sort(key=lambda reason: order[reason.weight])
    return Verdict(all(r.weight != "blocks" for r in reasons), useful, tuple(reasons))


def _privacy(findings: Findings) -> Iterator[Reason]:
    if findings.privacy is not None:
        yield from attack_reasons(findings.privacy)
        return
    yield Reason(
        "untested",
        "privacy",
        "blocks",
        "privacy was not tested",
        f"Whether this cohort gives patients away is unknown: {findings.no_privacy}.",
    )


def _copies(found: Copies) -> Iterator[Reason]:
    if found.num_copies == 0:
        return
    rows = f"{counted(found.num_copies, 'synthetic row')} of {found.num_rows:,}"
    chance = (
        ""
        if found.num_alike is None
        else f"; of {found.num_holdout:,} holdout patients {found.num_alike:,} are alike by chance"
    )
    equal = "equals" if found.num_copies == 1 else "equal"
    sentence = f"{rows} {equal} a training patient's row in every column{chance}."
    weight: Weight = "blocks" if found.is_leak else "caution"
    yield Reason("copies", "privacy", weight, "rows are copies of patients", sentence)


def _validity(found: Plausibility) -> Iterator[Reason]:
    if found.num_rows_impossible:
        worst = sorted(found.ranges, key=lambda one: -one.num_impossible)
        names = [one.name for one in worst[:3] if one.num_impossible]
        yield Reason(
            "impossible",
            "validity",
            "blocks",
            "rows hold impossible values",
            f"{counted(found.num_rows_impossible, 'row')} of {found.num_rows:,} "
            f"({percent(found.num_rows_impossible / found.num_rows)}) hold a value that no patient "
            f"can have, most often in {listed(names)}.",
        )
    broken = [one for one in found.constraints if one.num_synthetic]
    if broken:
        rules = listed([f"{one.text} ({one.num_synthetic:,})" for one in broken])
        yield Reason(
            "constraints",
            "validity",
            "blocks",
            "rows contradict themselves",
            f"{counted(found.num_rows_violating, 'row')} of {found.num_rows:,} "
            f"({percent(found.num_rows_violating / found.num_rows)}) break a rule that must hold "
            f"within a row: {rules}.",
        )
    if not broken and not found.num_rows_impossible:
        texts = [one.text for one in found.constraints]
        kept = f" and all keep {listed(texts)}" if texts else ""
        yield Reason(
            "plausible",
            "validity",
            "supports",
            "every row is possible",
            f"None of the {counted(found.num_rows, 'row')} holds an impossible value{kept}.",
        )


def _utility(utility: Utility) -> tuple[bool | None, list[Reason]]:
    """Return whether models can be trained on the rows, and the sentences that say so."""
    if utility.reason is not None:
        sentence = f"Whether models can be trained on it was not tested: {utility.reason}."
        return None, [Reason("no-utility", "utility", "caution", "use was not tested", sentence)]
    means = [c for c in (utility.mean("internal"), utility.mean("external")) if c is not None]
    reasons = [_usefulness(mean) for mean in means]
    weights = {reason.code for reason in reasons}
    if "useless" in weights:
        return False, reasons
    return (True if weights & {"useful", "loss"} else None), reasons


def _usefulness(mean: Comparison) -> Reason:
    """Return what the mean over learners says on one table of patients."""
    who = "other patients of this hospital" if mean.test == "internal" else "another hospital"
    trained = f"Tested on {who} (n = {mean.trtr.n:,}), models trained on it"
    if mean.trtr.value is None or mean.trtr.low is None:
        return _reason("unknown-use", "caution", "use is unclear", f"{trained}: {mean.trtr.reason}")
    real = f"AUROC {_figure(mean.trtr)} when trained on the patients themselves"
    if mean.tstr.value is None or mean.tstr.low is None:
        return _reason("useless", "caution", "it is of no use", f"{trained}: {mean.tstr.reason}")
    is_clear = mean.difference.high is not None and mean.difference.high < 0
    if mean.tstr.low <= CHANCE < mean.trtr.low and is_clear:
        return _reason(
            "useless",
            "caution",
            "it is of no use",
            f"{trained} do no better than guessing: AUROC {_figure(mean.tstr)}, against {real}",
        )
    assert mean.difference.value is not None
    gap = f"difference {_figure(mean.difference)}"
    if mean.trtr_balanced.value is not None:
        real += f", {two(mean.trtr_balanced.value)} with balanced classes"
    if mean.difference.value < -LOSS:
        return _reason(
            "loss",
            "caution",
            "models lose by it",
            f"{trained} are worse by more than {two(LOSS)}: AUROC {_figure(mean.tstr)}, against "
            f"{real} ({gap})",
        )
    return _reason(
        "useful",
        "supports",
        "models can be trained on it",
        f"{trained} reach AUROC {_figure(mean.tstr)}, against {real} ({gap})",
    )


def _reason(code: str, weight: Weight, short: str, sentence: str) -> Reason:
    topic: Topic = "utility"
    return Reason(code, topic, weight, short, f"{sentence}.")


def _figure(metric: Metric) -> str:
    assert metric.value is not None
    return with_interval(metric.value, metric.low, metric.high)


def _detection(found: Metric) -> Iterator[Reason]:
    if found.value is None or found.value <= DETECTION:
        return
    yield Reason(
        "detection",
        "utility",
        "caution",
        "rows are easy to tell from patients",
        f"A classifier tells synthetic rows from patients with AUROC {_figure(found)} "
        f"(n = {found.n:,} rows): they must not be used as if they were patients.",
    )


def _claim(claim: Claim | None) -> Iterator[Reason]:
    if claim is None:
        return
    yield Reason(
        "claim",
        "claim",
        "states",
        "a synthesiser's claim",
        f"The synthesiser states that it is ({claim.epsilon:g}, {claim.delta:g})-differentially "
        "private for each patient. That is repeated here and was not verified.",
    )
