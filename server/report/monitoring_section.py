"""What the report says of a run that was watched: sentences, a table of sites, and charts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedward.common import wording
from fedward.server.report.caveats import UNPROTECTED
from fedward.server.report.charts import Chart
from fedward.server.report.charts_cme import (
    acf_chart,
    covariance_chart,
    figure_chart,
    influence_chart,
    stretches,
    update_chart,
)
from fedward.server.report.charts_maps import MAX_MAP_SITES, MAX_STOPS
from fedward.server.report.monitoring import LAYER_FIGURES, Monitoring, SiteMonitoring
from fedward.server.report.series import Floats

MAX_LAYERS, MAX_MAP_LAYERS, MAX_ACF_SITES = 6, 3, 8
MAX_STRETCHES = 4


@dataclass(frozen=True)
class SiteRow:
    """One site in words; a dash where there is nothing to say."""

    site: str
    influence: str
    cosine: str
    saturated: str
    rests: str
    epsilon: str


@dataclass(frozen=True)
class Section:
    """All of it; a list that is empty is not shown."""

    headline: str
    sentences: list[str]
    rows: list[SiteRow]
    has_influence: bool
    has_figures: bool
    """Whether any site told how its weights move."""
    has_rests: bool
    has_epsilon: bool
    updates: list[Chart] = field(default_factory=list)
    motion: list[Chart] = field(default_factory=list)
    maps: list[Chart] = field(default_factory=list)
    folded_maps: list[Chart] = field(default_factory=list)
    maps_note: str = ""
    acf: list[Chart] = field(default_factory=list)
    acf_note: str = ""
    folded: list[Chart] = field(default_factory=list)
    folded_note: str = ""

    @property
    def charts(self) -> list[Chart]:
        """Every chart, once."""
        parts = (self.updates, self.motion, self.maps, self.folded_maps, self.acf, self.folded)
        return [chart for part in parts for chart in part]


def section(monitoring: Monitoring, *, asked_for_cme: bool, stopped_by: str) -> Section:
    """Return what the report shows of `monitoring`.

    Args:
        monitoring: of the run.
        asked_for_cme: whether the configuration watches layers.
        stopped_by: what ended the run.
    """
    layers = shown_layers(monitoring)
    maps, folded_maps = _maps(monitoring, layers)
    acf = _acf(monitoring, layers)
    return Section(
        headline=saturation_words(monitoring),
        sentences=list(_sentences(monitoring, asked_for_cme=asked_for_cme, stopped_by=stopped_by)),
        rows=[_row(site, found, monitoring) for site, found in monitoring.sites.items()],
        has_influence=monitoring.has("influence"),
        has_figures=_tells(monitoring),
        has_rests=any(site.rests for site in monitoring.sites.values()),
        has_epsilon=any(np.isfinite(s.epsilon).any() for s in monitoring.sites.values()),
        updates=_updates(monitoring),
        motion=_of_layer(monitoring, layers[:1], ("log_mag", "rho")),
        maps=maps,
        folded_maps=folded_maps,
        maps_note=_maps_note(monitoring, len(maps) + len(folded_maps)),
        acf=acf,
        acf_note=_cut(len(acf), len(monitoring.sites), "site") if len(acf) > 1 else "",
        folded=[
            *([update_chart(monitoring, "norm_ratio")] if monitoring.has("norm_ratio") else []),
            *_of_layer(monitoring, layers[:1], ("map_cos", "top1")),
            *_of_layer(monitoring, layers[1:], ("log_mag", "rho")),
        ],
        folded_note=_cut(len(layers), len(monitoring.layers), "layer"),
    )


def shown_layers(monitoring: Monitoring) -> list[str]:
    """Return at most MAX_LAYERS layers, the second to last first: the paper's."""
    layers = monitoring.layers
    first = layers[-2:-1] or layers[:1]
    return [*first, *(layer for layer in layers if layer not in first)][:MAX_LAYERS]


def saturation_words(monitoring: Monitoring) -> str:
    """Return how many of the sites that tell had come to rest at the end; empty if none tells."""
    told = [site for site in monitoring.sites.values() if _last_told(site, monitoring) is not None]
    if not told:
        return ""
    at_rest = sum(_last_told(s, monitoring) in {*s.saturated, *s.rests} for s in told)
    if at_rest == 0:
        return "No site's weights had come to rest by the last round."
    who = "the one site" if len(told) == 1 else f"{at_rest:,} of {len(told):,} sites"
    return f"The weights had come to rest at {who} by the last round."


def epochs_words(monitoring: Monitoring) -> str:
    """Return what was trained and what was saved, in local epochs over all sites."""
    done, saved = (monitoring.totals.get(k) for k in ("client_epochs", "client_epochs_saved"))
    if not isinstance(done, (int, float)) or not isinstance(saved, (int, float)) or saved <= 0:
        return ""
    share = 100 * saved / (done + saved)
    return (
        f"Sites trained {done:,.0f} local epochs in all; {saved:,.0f} more ({share:.0f} % of what "
        "was asked for) were saved by resting or by ending early."
    )


def _sentences(monitoring: Monitoring, *, asked_for_cme: bool, stopped_by: str) -> Iterable[str]:
    if stopped_by == "saturation":
        yield (
            "The run ended early because the weights of enough sites had come to rest "
            "(monitor.stop in the configuration)."
        )
    if epochs := epochs_words(monitoring):
        yield epochs
    if _tells(monitoring):
        yield (
            "Saturation is advice, not a verdict: it says that the watched weights hardly move "
            "any more, or move to and fro, and not that the model is good. It is taken back when "
            "they move again."
        )
    elif asked_for_cme:
        yield (
            "Whether the weights still move is not known: the sites let none of the monitor's "
            "figures out (telemetry in site.yaml)."
        )
    else:
        yield (
            "Layers were not watched; with monitor: {cme: true} in the configuration the report "
            "says whether the weights still move."
        )
    if monitoring.is_quantised:
        yield UNPROTECTED


def _tells(monitoring: Monitoring) -> bool:
    return any(monitoring.has(name) for name in LAYER_FIGURES)


def _last_told(site: SiteMonitoring, monitoring: Monitoring) -> int | None:
    """Return the last round of which it is known whether the site was saturated."""
    known = {*site.saturated, *site.rests}
    for figures in site.layers.values():
        for values in (figures[name] for name in ("log_mag", "rho") if name in figures):
            known |= {monitoring.numbers[r] for r in np.flatnonzero(np.isfinite(values))}
    return max(known, default=None)


def _row(site: str, found: SiteMonitoring, monitoring: Monitoring) -> SiteRow:
    is_known = _last_told(found, monitoring) is not None
    spent = found.epsilon[np.isfinite(found.epsilon)]
    return SiteRow(
        site=site,
        influence=_mean(found.influence),
        cosine=_mean(found.cosine),
        saturated=_rounds(found.saturated, "never") if is_known else "not known",
        rests=_rounds(found.rests, "never"),
        epsilon=f"{spent[-1]:.2f}" if len(spent) else "–",
    )


def _mean(values: Floats) -> str:
    there = values[np.isfinite(values)]
    return wording.number(float(there.mean())) if len(there) else "–"


def _rounds(numbers: Sequence[int], nothing: str) -> str:
    """Return '10–11, 13' or `nothing`."""
    found = [str(low) if low == high else f"{low}–{high}" for low, high in stretches(numbers)]
    more = f" and {len(found) - MAX_STRETCHES} more times" if len(found) > MAX_STRETCHES else ""
    return ", ".join(found[:MAX_STRETCHES]) + more or nothing


def _updates(monitoring: Monitoring) -> list[Chart]:
    drawn: list[tuple[str, Callable[[], Chart]]] = [
        ("influence", lambda: influence_chart(monitoring)),
        ("cosine", lambda: update_chart(monitoring, "cosine")),
    ]
    return [draw() for name, draw in drawn if monitoring.has(name)]


def _of_layer(monitoring: Monitoring, layers: Sequence[str], names: Sequence[str]) -> list[Chart]:
    """Return the charts of `layers` that have any values."""
    return [
        figure_chart(monitoring, name, layer)
        for layer in layers
        for name in names
        if any(
            np.isfinite(monitoring.layer_figure(site, layer, name)).any()
            for site in monitoring.sites
        )
    ]


def _maps(monitoring: Monitoring, layers: Sequence[str]) -> tuple[list[Chart], list[Chart]]:
    if not monitoring.maps:
        return [], []
    drawn = [covariance_chart(monitoring, layer) for layer in layers[:MAX_MAP_LAYERS]]
    return drawn[:1], drawn[1:]


def _maps_note(monitoring: Monitoring, num_drawn: int) -> str:
    if num_drawn == 0:
        return ""
    num_rounds = len({number for files in monitoring.maps.values() for number in files})
    parts = [
        _cut(min(len(monitoring.maps), MAX_MAP_SITES), len(monitoring.maps), "site"),
        _cut(min(num_rounds, MAX_STOPS), num_rounds, "round", first=False),
        _cut(num_drawn, len(monitoring.layers), "layer", first=False),
    ]
    said = ", ".join(part for part in parts if part)
    return f"Shown: {said}. The others are in the folder cme/ of the run." if said else ""


def _cut(shown: int, total: int, what: str, *, first: bool = True) -> str:
    """Return 'the first 8 of 100 sites', or nothing where all are shown."""
    return (
        "" if shown >= total else f"{'the first ' if first else ''}{shown:,} of {total:,} {what}s"
    )


def _acf(monitoring: Monitoring, layers: Sequence[str]) -> list[Chart]:
    """Return a chart for each site, or of one layer a single one with a line for each site."""
    if not monitoring.has("acf"):
        return []
    if len(monitoring.layers) == 1:
        return _of_layer(monitoring, layers, ("acf",))
    having = [
        site
        for site, found in monitoring.sites.items()
        if any(np.isfinite(f["acf"]).any() for f in found.layers.values() if "acf" in f)
    ]
    return [acf_chart(monitoring, site) for site in having[:MAX_ACF_SITES]]
