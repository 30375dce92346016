"""What the report says of a private run: to whom what is promised, and what each round cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedward.common import wording
from fedward.common.page.palette import INK
from fedward.server.report.charts import Chart, frame, numbers, whole_rounds
from fedward.server.report.charts_rounds import draw_sites
from fedward.server.report.series import Floats, thin

EVERY_SITE = "every site"
MAX_COLUMNS = 5
"""Rounds whose epsilon is a column of the table; the chart has all of them."""
MODES = {
    "dp-sgd": "DP-SGD: patients are protected, by noise of each site.",
    "central": (
        "Central: hospitals are protected as a whole, not their patients one by one, by noise of "
        "the server, which is trusted and sees every update without it."
    ),
    "local": (
        "Local: hospitals are protected as a whole, not their patients one by one, by noise that "
        "each adds before its update leaves. Nobody else needs to be trusted."
    ),
}
FACTS = {
    "unit": "Unit",
    "neighbourhood": "Neighbours",
    "mechanism": "Mechanism",
    "sampling": "Sampling",
    "composition": "Composition",
    "noise": "Noise",
}


@dataclass(frozen=True)
class SiteRow:
    """One site in words; a dash where it told nothing."""

    site: str
    epsilons: list[str]
    """After each round of `Section.rounds`."""
    rounds: str
    delta: str
    noise_multiplier: str
    sample_rate: str
    signal_to_noise: str
    clipped: str


@dataclass(frozen=True)
class Section:
    """All of it; a list that is empty is not shown."""

    headline: str
    mode: str
    facts: list[tuple[str, str]]
    warnings: list[str]
    rounds: list[int]
    rows: list[SiteRow]
    has_signal: bool
    has_clipped: bool
    not_covered: list[str]
    shown: list[Chart] = field(default_factory=list)
    folded: list[Chart] = field(default_factory=list)

    @property
    def charts(self) -> list[Chart]:
        """Every chart, once."""
        return [*self.shown, *self.folded]


@dataclass(frozen=True)
class _Told:
    """What sites told in the R rounds of a run; NaN where they told nothing."""

    numbers: list[int]
    sites: list[str]
    values: Mapping[str, Floats]
    """(R, S) of `epsilon` and the keys of a line's `privacy`."""


def privacy_section(
    claim: Mapping[str, Any] | None, lines: Iterable[Mapping[str, Any]]
) -> Section | None:
    """Return what the report shows of a run's privacy; None where it promised nothing.

    Args:
        claim: `privacy` of the run's summary.
        lines: of its history.
    """
    if not claim:
        return None
    told = _tabulated(lines, claim.get("sites") or {})
    sites: Mapping[str, Any] = claim.get("sites") or {}
    columns = _columns(told.numbers)
    signal, clipped = (_chart(told, name) for name in ("signal_to_noise", "clipped"))
    cost = _chart(told, "epsilon")
    return Section(
        headline=_headline(claim),
        mode=MODES.get(str(claim.get("mode")), ""),
        facts=[(words, str(claim[key])) for key, words in FACTS.items() if claim.get(key)],
        warnings=[str(one) for one in claim.get("warnings") or []],
        rounds=[told.numbers[r] for r in columns],
        rows=[_row(site, found, told, columns) for site, found in sites.items()],
        has_signal=signal is not None,
        has_clipped=clipped is not None,
        not_covered=[str(one) for one in claim.get("not_covered") or []],
        shown=[one for one in (cost, signal) if one is not None],
        folded=[] if clipped is None else [clipped],
    )


def _headline(claim: Mapping[str, Any]) -> str:
    unit = str(claim.get("unit", "")).split(":")[0] or "patient"
    whom = "Every hospital" if unit == "site" else "Every patient of every site"
    return (
        f"{whom} was promised at most epsilon {float(claim['epsilon']):.3g} at delta "
        f"{float(claim['delta']):.2g}, over all rounds of this run."
    )


def _tabulated(lines: Iterable[Mapping[str, Any]], known: Mapping[str, Any]) -> _Told:
    """Return the lines as arrays; what the server's noise cost is a site of its own name."""
    kept = [
        line
        for line in lines
        if line.get("phase") == "train" and (line.get("epsilon") is not None or line.get("privacy"))
    ]
    rounds = sorted({line["round"] for line in kept})
    names = {str(line["site"]) for line in kept if line.get("site") is not None}
    sites = [*(s for s in known if s in names), *sorted(names - set(known))]
    if any(line.get("site") is None for line in kept):
        sites.append(EVERY_SITE)
    row = {number: place for place, number in enumerate(rounds)}
    column = {site: place for place, site in enumerate(sites)}
    values: dict[str, Floats] = {}
    for line in kept:
        place = row[line["round"]], column[str(line.get("site") or EVERY_SITE)]
        for name, value in {"epsilon": line.get("epsilon"), **(line.get("privacy") or {})}.items():
            if _is_number(value):
                table = values.setdefault(name, np.full((len(rounds), len(sites)), np.nan))
                table[place] = value
    return _Told(rounds, sites, values)


def _chart(told: _Told, name: str) -> Chart | None:
    """Return a figure by round and site; None where no site told it."""
    values_RS = told.values.get(name)
    if values_RS is None:
        return None
    heading = {
        "epsilon": "Epsilon spent so far",
        "signal_to_noise": "Signal over noise",
        "clipped": "Share that was clipped",
    }[name]
    figure = frame(x="round", y="")
    if name == "epsilon" and EVERY_SITE in told.sites:  # the server's noise costs all the same
        curve = values_RS[:, told.sites.index(EVERY_SITE)]
        there = np.flatnonzero(np.isfinite(curve))
        kept = there[thin(len(there))]
        figure.add_scatter(
            x=[told.numbers[r] for r in kept],
            y=numbers(curve[kept]),
            name=EVERY_SITE,
            mode="lines+markers",
            line={"color": INK, "width": 2.5},
        )
        what = "one line for all sites"
    else:
        what = draw_sites(figure, told.numbers, told.sites, values_RS)
    if name == "signal_to_noise":
        figure.add_hline(y=1, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(rangemode="tozero")
    whole_rounds(figure, told.numbers)
    newest = values_RS[np.isfinite(values_RS).any(axis=1)][-1]
    return Chart(
        f"privacy-{name}",
        heading,
        f"{heading} by round: {what}. At the end at most {np.nanmax(newest):.3g}.",
        figure,
    )


def _columns(rounds: Sequence[int]) -> list[int]:
    """Return the places of the first, the last, and some rounds between them."""
    return [int(place) for place in thin(len(rounds), MAX_COLUMNS)]


def _row(site: str, found: Mapping[str, Any], told: _Told, columns: Sequence[int]) -> SiteRow:
    def figure(name: str, form: str = ".3g") -> str:
        value = found.get(name)
        return format(value, form) if _is_number(value) else "–"

    return SiteRow(
        site=site,
        epsilons=[_epsilon_at(site, told, place) for place in columns],
        rounds=figure("rounds", ","),
        delta=figure("delta", ".2g"),
        noise_multiplier=figure("noise_multiplier", ".4g"),
        sample_rate=figure("sample_rate"),
        signal_to_noise=figure("signal_to_noise"),
        clipped=figure("clipped", ".0%"),
    )


def _epsilon_at(site: str, told: _Told, place: int) -> str:
    """Return what a site had spent after a round, in which it need not have taken part."""
    table = told.values.get("epsilon")
    if table is None:
        return "–"
    name = EVERY_SITE if EVERY_SITE in told.sites else site
    if name not in told.sites:
        return "–"
    so_far = table[: place + 1, told.sites.index(name)]
    there = so_far[np.isfinite(so_far)]
    return wording.number(float(there[-1])) if len(there) else "0"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
