"""When the report says better, worse, or that it cannot say."""

from typing import Any

import pytest

from fedward.server.report.record import parse_run
from fedward.server.report.verdict import compare_mean, compare_sites, headline


def figure(value: float | None, half: float = 0.02) -> dict[str, Any]:
    """Return a figure with a symmetric interval."""
    if value is None:
        return {"value": None, "reason": "one class", "n": 16}
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def summary(metric: str, **sites: tuple[float | None, float | None]) -> dict[str, Any]:
    """Return a summary of sites given as (federated, alone)."""
    ours = {s: {"metrics": {metric: figure(pair[0])}} for s, pair in sites.items()}
    alone = {s: {"metrics": {metric: figure(pair[1])}} for s, pair in sites.items()}
    return {"sites": ours, "baselines": {"local": {"sites": alone}}, "primary_metric": metric}


@pytest.mark.parametrize(
    ("federated", "alone", "answer"),
    [
        (0.80, 0.70, "better"),
        (0.70, 0.80, "worse"),
        (0.80, 0.78, "unclear"),  # half-widths of .02 each: +-.028
        (None, 0.8, "unknown"),
        (0.8, None, "unknown"),
    ],
)
def test_a_gain_is_clear_where_its_interval_leaves_out_zero(
    federated: float | None, alone: float | None, answer: str
) -> None:
    run = parse_run(summary("auroc", a=(federated, alone)))
    assert [c.answer for c in compare_sites(run, "auroc")] == [answer]


def test_a_lower_brier_score_is_a_gain() -> None:
    comparison = compare_sites(parse_run(summary("brier", a=(0.10, 0.20))), "brier")[0]
    assert comparison.gain.value == pytest.approx(0.10)
    assert comparison.answer == "better"


def test_what_is_printed_as_zero_is_not_called_clear() -> None:
    made = summary("auroc", a=(0.8, 0.7))
    for arm, value in ((made, 0.8), (made["baselines"]["local"], 0.7)):
        half = 0.1 / 2**0.5 - 1e-4  # so that the gain's interval starts just above 0
        arm["sites"]["a"]["metrics"]["auroc"] = figure(value, half)
    gain = compare_sites(parse_run(made), "auroc")[0]
    assert gain.gain.low is not None
    assert 0 < gain.gain.low < 0.0005
    assert gain.answer == "unclear"


def test_a_figure_without_an_interval_decides_nothing() -> None:
    made = summary("auroc", a=(0.9, 0.5))
    made["sites"]["a"]["metrics"]["auroc"] = {"value": 0.9}
    assert compare_sites(parse_run(made), "auroc")[0].answer == "unknown"


def test_repetitions_are_compared_in_pairs() -> None:
    # The seeds differ by far more than the two ways of training, but always the same way.
    repeats = [
        summary("auroc", a=(base + 0.02 + wobble, base))
        for base, wobble in [(0.6, 0.001), (0.7, 0.0), (0.8, -0.001)]
    ]
    run = parse_run({**summary("auroc", a=(0.72, 0.7)), "repeats": repeats})
    comparison = compare_sites(run, "auroc")[0]
    # t(2) * sd(.001) / sqrt(3) = 4.303 * .001 / 1.732.
    assert comparison.gain.low == pytest.approx(0.02 - 0.002484, abs=1e-6)
    assert comparison.answer == "better"
    mean = compare_mean(run, "auroc", [comparison])
    assert mean.gain.value == pytest.approx(0.02)
    assert mean.gain.n == 3


def test_the_mean_gain_leaves_out_sites_without_both_figures() -> None:
    run = parse_run(summary("auroc", a=(0.8, 0.7), b=(None, 0.7), c=(0.9, 0.85)))
    mean = compare_mean(run, "auroc", compare_sites(run, "auroc"))
    assert mean.gain.value == pytest.approx(0.075)


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (
            {"a": (0.8, 0.7), "b": (0.7, 0.8), "c": (0.8, 0.8), "d": (None, 0.8)},
            "Of 4 hospitals: for 1 joining is clearly better, for 1 joining is clearly worse, "
            "for 1 there is no clear difference and for 1 it cannot be said.",
        ),
        ({"a": (0.8, 0.8), "b": (0.8, 0.8)}, "For all 2 hospitals, there is no clear difference."),
        ({"a": (0.8, 0.7)}, "For the hospital, joining is clearly better."),
        (
            {"a": (0.8, 0.7), "b": (0.8, 0.7)},
            "For all 2 hospitals, joining is clearly better. On average, joining is better.",
        ),
    ],
)
def test_the_headline_counts_the_answers(
    sites: dict[str, tuple[float | None, float | None]], said: str
) -> None:
    run = parse_run(summary("auroc", **sites))
    compared = compare_sites(run, "auroc")
    assert headline(compared, compare_mean(run, "auroc", compared)) == said
