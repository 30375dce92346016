"""Charts of points with intervals, as positions: the template draws them, without any script.

Positions along a chart are per cent of its width, so that it fits a phone as it fits paper while
text and marks keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedward.common.task import Metric
from fedward.synth.evaluation.attack_reasons import attack_name, group_name
from fedward.synth.evaluation.privacy import PrivacyReport
from fedward.synth.evaluation.reason import two, with_interval
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.tables import TestName
from fedward.synth.evaluation.thresholds import CHANCE, MEMBERSHIP_AUC, RISK
from fedward.synth.evaluation.utility import Arm, Comparison, Utility

MARK_PX = 18
"""Height of one mark within a lane."""
ARMS: dict[Arm, str] = {
    "tstr": "Trained on synthetic rows (TSTR)",
    "trtr": "Trained on patients (TRTR)",
    "trtr_balanced": "Trained on patients, classes balanced",
}
STYLES = ("first", "second", "third")
"""Colour and shape of the marks of a lane, in their order: see `page.css`."""
TESTS: dict[TestName, str] = {
    "internal": "Other patients of the same hospital",
    "external": "Patients of another hospital",
}


@dataclass(frozen=True)
class Scale:
    """The values from the left to the right edge."""

    low: float
    high: float
    step: float

    def at(self, value: float) -> float:
        """Return where a value is, 0 to 100; beyond an edge it is at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Positions and labels of the ticks."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + self.step * index for index in range(count + 1)]
        return tuple((self.at(value), f"{value:.2f}".removesuffix("0")) for value in values)


@dataclass(frozen=True)
class Mark:
    """One point with its interval."""

    style: str
    y_px: int
    at: float
    low: float
    high: float
    words: str
    """For those who point at it, and for screen readers."""


@dataclass(frozen=True)
class Lane:
    """All points of one row of the chart."""

    label: str
    marks: tuple[Mark, ...]
    height_px: int
    text: str
    """What stands at the right: the figure that matters, or why there is none."""
    is_over: bool = False
    """Whether a point is beyond the limit."""


@dataclass(frozen=True)
class DotChart:
    """Lanes over one scale."""

    caption: str
    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, str], ...]
    legend: tuple[tuple[str, str], ...]
    """Style and words of each kind of point; none where there is one kind."""
    baseline: tuple[float, str] | None
    """Position and words of the line of chance."""
    limit: tuple[float, str] | None
    """Position from which the chart is shaded, and words."""

    @property
    def description(self) -> str:
        """All figures in words, for screen readers."""
        points = (f"{lane.label}: {mark.words}" for lane in self.lanes for mark in lane.marks)
        return f"{self.caption}. {'; '.join(points)}."


def membership_chart(report: PrivacyReport) -> DotChart:
    """Return the AUROC of each membership attack on each group."""
    areas = [risk for risk in report.membership if risk.name.endswith("_auc")]
    names = list(dict.fromkeys(risk.name for risk in areas))
    lowest = min([0.4, *(risk.low for risk in areas if risk.low is not None)])
    scale = Scale(math.floor(lowest * 10) / 10, 1.0, 0.1)
    groups = dict.fromkeys(risk.group for risk in areas)
    lanes = [
        _risk_lane(
            group_name(group), [r for r in areas if r.group == group], names, scale, MEMBERSHIP_AUC
        )
        for group in groups
    ]
    styles = dict(zip(names, STYLES, strict=False))
    legend = [(styles[r.name], attack_name(r).capitalize()) for r in areas if r.group == "all"]
    return DotChart(
        "AUROC of attacks that ask whether a patient's record was used, with 95 % intervals",
        tuple(lanes),
        scale.ticks,
        tuple(legend),
        (scale.at(CHANCE), "guessing"),
        (scale.at(MEMBERSHIP_AUC), "over the limit"),
    )


def attribute_chart(report: PrivacyReport) -> DotChart:
    """Return the risks of singling out, linkage and inference over all patients."""
    risks = [r for r in (*report.singling_out, report.linkability) if r.group == "all"]
    risks += [risk for risk in report.inference if risk.group == "all"]
    scale = Scale(0.0, 1.0, 0.2)
    lanes = [
        _risk_lane(attack_name(risk).capitalize(), [risk], [risk.name], scale, RISK)
        for risk in risks
    ]
    return DotChart(
        "Risk: how much oftener an attack succeeds against training patients than against others",
        tuple(lanes),
        scale.ticks,
        (),
        None,
        (scale.at(RISK), "over the limit"),
    )


def _risk_lane(
    label: str, risks: Sequence[Risk], names: Sequence[str], scale: Scale, limit: float
) -> Lane:
    """Return the lane of one group; its text is the largest figure."""
    known = [risk for risk in risks if risk.value is not None]
    marks = tuple(
        _mark(
            Metric(risk.value, risk.low, risk.high),
            scale,
            STYLES[names.index(risk.name)],
            names.index(risk.name),
            attack_name(risk),
        )
        for risk in known
    )
    if not known:
        text, is_over = "not judged", False
    else:
        worst = max(known, key=lambda risk: risk.value or 0.0)
        text = with_interval(worst.value or 0.0, worst.low, worst.high)
        is_over = (worst.value or 0.0) > limit
    return Lane(label.capitalize(), marks, _height(len(names)), text, is_over)


def utility_charts(utility: Utility) -> tuple[DotChart, ...]:
    """Return one chart per table of patients: each learner, trained in three ways."""
    values = [
        side
        for one in utility.comparisons
        for metric in (one.tstr, one.trtr, one.trtr_balanced)
        for side in (metric.low, metric.high)
        if side is not None
    ]
    if not values:
        return ()
    low = math.floor(min(*values, CHANCE) * 10) / 10
    scale = Scale(low, 1.0, 0.1 if 1.0 - low < 0.75 else 0.2)
    found = []
    for test, words in TESTS.items():
        rows = [one for one in utility.comparisons if one.test == test]
        if rows:
            number = next((one.trtr.n for one in rows if one.trtr.n), 0)
            found.append(
                DotChart(
                    f"{words} (n = {number:,})",
                    tuple(_utility_lane(one, scale) for one in rows),
                    scale.ticks,
                    tuple(zip(STYLES, ARMS.values(), strict=True)),
                    (scale.at(CHANCE), "guessing"),
                    None,
                )
            )
    return tuple(found)


def _utility_lane(one: Comparison, scale: Scale) -> Lane:
    metrics = (one.tstr, one.trtr, one.trtr_balanced)
    marks = tuple(
        _mark(metric, scale, style, index, name)
        for index, (metric, style, name) in enumerate(
            zip(metrics, STYLES, ARMS.values(), strict=True)
        )
        if metric.value is not None
    )
    text = one.tstr.reason or ""
    return Lane(one.title, marks, _height(len(metrics)), text)


def _mark(metric: Metric, scale: Scale, style: str, index: int, name: str) -> Mark:
    assert metric.value is not None
    low = metric.value if metric.low is None else metric.low
    high = metric.value if metric.high is None else metric.high
    return Mark(
        style,
        MARK_PX // 2 + 4 + MARK_PX * index,
        scale.at(metric.value),
        scale.at(low),
        scale.at(high),
        f"{name} {with_interval(metric.value, metric.low, metric.high)}",
    )


def _height(num_marks: int) -> int:
    return MARK_PX * num_marks + 8


def gap_words(metric: Metric) -> str:
    """Return a difference with its sign, or a dash."""
    if metric.value is None:
        return "–"
    sign = "+" if round(metric.value, 2) > 0 else ""
    interval = (
        ""
        if metric.low is None or metric.high is None
        else (f" [{two(metric.low)}, {two(metric.high)}]")
    )
    return f"{sign}{two(metric.value)}{interval}"
