"""What the attacks say for and against sharing."""

from collections.abc import Iterator, Sequence

from fedward.synth.evaluation.membership import OUTLIERS
from fedward.synth.evaluation.privacy import PrivacyReport
from fedward.synth.evaluation.reason import Reason, counted, listed, percent, two, with_interval
from fedward.synth.evaluation.risk import ALL, FPR, Risk
from fedward.synth.evaluation.thresholds import MEMBERSHIP_AUC, RISK, TPR_ALL, TPR_GROUP

ATTACKS = {
    "density": "density attack",
    "density_gaps": "density attack on values and gaps",
    "nearest": "nearest-row attack",
    "singling_out_univariate": "singling out by one value",
    "singling_out_multivariate": "singling out by several values",
    "linkability": "linking two halves of a record",
    "inference": "guessing a value",
}


def attack_name(risk: Risk) -> str:
    """Return the attack in words."""
    name = risk.name.removesuffix("_auc").removesuffix("_tpr")
    return ATTACKS.get(name, name.replace("_", " "))


def group_name(group: str) -> str:
    """Return whom a figure is about, in words."""
    return {ALL: "all patients", OUTLIERS: "outliers"}.get(group, f"patients of class {group}")


def attack_reasons(report: PrivacyReport) -> Iterator[Reason]:
    """Yield at least one reason per kind of attack, the worst figure in its sentence."""
    areas = [risk for risk in report.membership if risk.name.endswith("_auc")]
    yield _membership(areas)
    yield from _recognised([risk for risk in report.membership if risk.name.endswith("_tpr")])
    yield _attributes((*report.singling_out, report.linkability, *report.inference))
    untested = {risk.group: risk.reason for risk in areas if risk.value is None}
    if untested and ALL not in untested:
        groups = listed([f"{group_name(g)} ({reason})" for g, reason in untested.items()])
        yield Reason(
            "untested-group",
            "privacy",
            "caution",
            "not every group was attacked",
            f"No attack could be judged for {groups}; what the figures of all patients say need "
            "not hold for them.",
        )


def _membership(areas: Sequence[Risk]) -> Reason:
    overall = [risk for risk in areas if risk.group == ALL and risk.value is not None]
    if not overall:
        why = next((risk.reason for risk in areas if risk.reason), "no attack")
        return _untested(f"no membership attack could be judged: {why}")
    worst = max(areas, key=_value)
    where = f"{group_name(worst.group)}, n = {worst.num_attacks:,}"
    figure = with_interval(_value(worst), worst.low, worst.high)
    scale = f"guessing gives 0.50, the limit is {two(MEMBERSHIP_AUC)}"
    over = _over(areas, MEMBERSHIP_AUC, skip=worst.group)
    if _value(worst) <= MEMBERSHIP_AUC:
        return Reason(
            "membership",
            "privacy",
            "supports",
            "patients are hard to recognise",
            "Whether a patient's record was used can hardly be told from the synthetic rows: the "
            f"best attack reaches AUROC {figure} ({where}); {scale}.",
        )
    return Reason(
        "membership",
        "privacy",
        "blocks",
        "patients can be recognised" if worst.is_leak else "patients may be recognised",
        "Shown the record of one patient who was used and of one who "
        f"was not, an attacker picks the right one in {100 * _value(worst):.0f} of 100 pairs "
        f"(AUROC {figure}; {where}); {scale}.{over}{_doubt(worst)}",
    )


def _recognised(rates: Sequence[Risk]) -> Iterator[Reason]:
    """Yield whether a few patients are recognised nearly for certain."""
    over = [
        risk
        for risk in rates
        if risk.value is not None and risk.value > (TPR_ALL if risk.group == ALL else TPR_GROUP)
    ]
    if not over:
        return
    worst = max(over, key=_value)
    low, high = (percent(side or 0.0) for side in (worst.low, worst.high))
    limit = TPR_ALL if worst.group == ALL else TPR_GROUP
    yield Reason(
        "recognised",
        "privacy",
        "blocks",
        f"some patients {'are' if worst.is_leak else 'may be'} recognised for certain",
        f"{percent(_value(worst))} [{low}, {high}] of {group_name(worst.group)} "
        f"(n = {worst.num_attacks:,}) are recognised at a threshold at which {percent(FPR)} of "
        f"other patients are taken for them; the limit is {percent(limit)}.{_doubt(worst)}",
    )


def _attributes(risks: Sequence[Risk]) -> Reason:
    known = [risk for risk in risks if risk.value is not None]
    if not known:
        return _untested("singling out, linking and guessing could not be judged")
    over = [risk for risk in known if _is_over(risk)]
    worst = max(over or [risk for risk in known if risk.group == ALL] or known, key=_value)
    figure = with_interval(_value(worst), worst.low, worst.high)
    tries = counted(worst.num_attacks, "attempt")
    attack = attack_name(worst) if worst.group == ALL else f"guessing {worst.group}"
    if not over:
        return Reason(
            "attributes",
            "privacy",
            "supports",
            "values cannot be guessed from a patient's own row",
            "Singling a patient out, linking two halves of a record and guessing a value succeed "
            "hardly more often against training patients than against others: the largest risk is "
            f"{figure} ({attack}, {tries}); the limit is {two(RISK)}.",
        )
    more = len({risk.name for risk in over}) - 1
    verb = "is" if more == 1 else "are"
    others = f" {counted(more, 'other attack')} {verb} over the limit, too." if more else ""
    return Reason(
        "attributes",
        "privacy",
        "blocks",
        "facts about single patients can be found out",
        f"{attack[0].upper()}{attack[1:]} succeeds more often against training patients "
        f"than against others: risk {figure} ({tries}); the limit is {two(RISK)}.{others}",
    )


def _is_over(risk: Risk) -> bool:
    if risk.value is None or risk.low is None:
        return False
    return risk.low > RISK or (risk.group == ALL and risk.value > RISK and risk.is_leak)


def _over(risks: Sequence[Risk], limit: float, *, skip: str) -> str:
    """Return the other groups over the limit, as a sentence."""
    worst: dict[str, float] = {}
    for risk in risks:
        if _value(risk) > limit and risk.group != skip:
            worst[risk.group] = max(worst.get(risk.group, 0.0), _value(risk))
    if not worst:
        return ""
    return f" Also over it: {listed([f'{group_name(g)} {two(v)}' for g, v in worst.items()])}."


def _doubt(risk: Risk) -> str:
    """Return a sentence where so large a figure may be chance; nothing where it is not."""
    if risk.is_leak:
        return ""
    return (
        " The interval reaches guessing, so this may be chance: more holdout patients would tell."
    )


def _untested(why: str) -> Reason:
    return Reason(
        "untested",
        "privacy",
        "blocks",
        "privacy was not tested",
        f"Whether this cohort gives patients away is unknown: {why}.",
    )


def _value(risk: Risk) -> float:
    return -1.0 if risk.value is None else risk.value
