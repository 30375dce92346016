"""Charts of what watching a run found: figures of layers by round, ACF and influence.

Up to eight sites are drawn as lines; more of them as bands of quantiles.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from fedward.common.page.palette import INK, MUTED, line_style
from fedward.common.wording import short
from fedward.server.report.charts import Chart, frame, numbers, plain, whole_rounds
from fedward.server.report.charts_maps import covariance_chart
from fedward.server.report.charts_rounds import MAX_LINES, draw_sites
from fedward.server.report.monitoring import Monitoring
from fedward.server.report.series import Floats, thin

__all__ = [
    "acf_chart", "covariance_chart", "figure_chart", "influence_chart", "update_chart",
]  # fmt: skip

FIGURE_TITLES = {
    "log_mag": "How far the weights move (log_mag)",
    "rho": "Whether steps keep their direction (rho)",
    "map_cos": "Map against the map of the round before (map_cos)",
    "top1": "Share of the largest single change (top1)",
    "acf": "Lag-1 ACF, as in the paper",
}
UPDATE_TITLES = {
    "influence": "Influence: share of each site in the round's update",
    "cosine": "Agreement: cosine of a site's update with the round's",
    "norm_ratio": "Size of the update against the model",
}
AXES = {"log_mag": "log10 of the relative change", "norm_ratio": "update / model"}
LEVELS: dict[str, dict[float, str]] = {
    "rho": {0.0: "random walk", -0.5: "noise about an optimum"},
    "cosine": {0.0: "at right angles"},
    "influence": {0.0: ""},
}
"""What some values mean, drawn as dotted lines."""
RANGES = {"rho": (-1.0, 1.05), "top1": (0.0, 1.05)}
COSINES = {"cosine", "map_cos"}
ACF_ROUNDS, ACF_LAYERS = 8, 40
EARLY, LATE = np.array([158, 202, 225]), np.array([8, 48, 107])


def figure_chart(monitoring: Monitoring, name: str, layer: str) -> Chart:
    """Return one figure of a layer by round, a ring round it where a site was saturated.

    Args:
        monitoring: of a run.
        name: one of `log_mag`, `rho`, `map_cos`, `top1`, `acf`.
        layer: a name of `monitoring.layers`.
    """
    values_RS = _side_by_side(
        [monitoring.layer_figure(site, layer, name) for site in monitoring.sites],
        len(monitoring.numbers),
    )
    figure, words = _by_round(monitoring, name, values_RS)
    marks = _mark_saturated(figure, monitoring, values_RS)
    title = FIGURE_TITLES.get(name, name)
    place = monitoring.layers.index(layer) if layer in monitoring.layers else 0
    return Chart(
        f"cme-{name}-{place}",
        f"{title}: {short(layer, 40)}" if len(monitoring.layers) > 1 else title,
        f"{title} of layer {layer} by round: {words}.{_ends(values_RS)}{marks}",
        figure,
    )


def influence_chart(monitoring: Monitoring) -> Chart:
    """Return how much each site moved the model, by round; the shares of a round sum to 1."""
    return update_chart(monitoring, "influence")


def update_chart(monitoring: Monitoring, name: str) -> Chart:
    """Return a figure of the sites' updates by round: `influence`, `cosine` or `norm_ratio`."""
    sites = monitoring.sites.values()
    values_RS = _side_by_side([getattr(s, name) for s in sites], len(monitoring.numbers))
    figure, words = _by_round(monitoring, name, values_RS)
    whole = {
        "norm_ratio": (monitoring.federation_norm_ratio, "all sites"),
        "cosine": (monitoring.federation_cosine, "round to round"),
    }.get(name)
    if whole is not None:
        _federation_line(figure, monitoring.numbers, *whole)
    if name == "norm_ratio":
        figure.update_yaxes(rangemode="tozero")
    title = UPDATE_TITLES[name]
    return Chart(f"update-{name}", title, f"{title}, by round: {words}.{_ends(values_RS)}", figure)


def acf_chart(monitoring: Monitoring, site: str) -> Chart:
    """Return the lag-1 ACF of a site's layers, one line per round; early pale, late dark.

    Source: Kumar et al. 2025, doi:10.1007/978-3-031-78198-8_9, figures 4 and 5 (j, k, l).
    """
    layers, rounds, values_RL = acf_table(monitoring, site)
    figure = frame(x="layer", y="lag-1 ACF")
    labels = layer_labels(layers)
    shades = shade_steps(len(rounds))
    drawn = [place for place, row in enumerate(values_RL) if np.isfinite(row).any()]
    for place in drawn:
        figure.add_scatter(
            x=list(range(len(layers))),
            y=numbers(values_RL[place]),
            name=f"round {rounds[place]}",
            mode="lines+markers",
            line={"color": shades[place], "width": 2},
            marker={"size": 6},
        )
    figure.update_xaxes(
        tickvals=list(range(len(layers))),
        ticktext=[plain(label, 18) for label in labels],
        range=[-0.4, len(layers) - 0.6],
        zeroline=False,
    )
    figure.update_yaxes(exponentformat="power", range=acf_range(monitoring))
    left_out = len(monitoring.layers) - len(layers)
    cut = f" (the first {ACF_LAYERS} layers)" if left_out > 0 else ""
    place = list(monitoring.sites).index(site)
    return Chart(
        f"acf-{place}",
        f"{short(site, 40)}{cut}",
        f"Lag-1 ACF of {len(layers)} layers of {site}, a line for each of rounds "
        f"{', '.join(str(rounds[place]) for place in drawn)}.",
        figure,
        320,
    )


def acf_table(monitoring: Monitoring, site: str) -> tuple[list[str], list[int], Floats]:
    """Return layers, rounds and (R, L) the ACF at a site, of as many as can be told apart.

    The rounds are the same for all sites; one that the site missed is all NaN.
    """
    layers = monitoring.layers[:ACF_LAYERS]
    each = [
        _side_by_side(
            [monitoring.layer_figure(name, layer, "acf") for layer in layers],
            len(monitoring.numbers),
        )
        for name in monitoring.sites
    ]
    values_RL = each[list(monitoring.sites).index(site)]
    there = np.flatnonzero(np.any([np.isfinite(one).any(axis=1) for one in each], axis=0))
    kept = there[thin(len(there), ACF_ROUNDS)]
    return layers, [monitoring.numbers[r] for r in kept], values_RL[kept]


def acf_range(monitoring: Monitoring) -> tuple[float, float] | None:
    """Return the range of all sites together, so that their charts can be compared."""
    values = [
        figures["acf"][np.isfinite(figures["acf"])]
        for site in monitoring.sites.values()
        for figures in site.layers.values()
        if "acf" in figures
    ]
    known = np.concatenate([np.zeros(1), *values])
    pad = 0.06 * float(known.max() - known.min())
    return (float(known.min()) - pad, float(known.max()) + pad) if pad > 0 else None


def layer_labels(layers: Sequence[str]) -> list[str]:
    """Return the names without what all of them share at their ends, such as `.weight`."""
    parts = [layer.split(".") for layer in layers]
    if len(layers) > 1 and all(part[-1] == "weight" and len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    # A bare number is no name, so the word before it stays.
    while len(layers) > 1 and all(len(p) > 2 and p[0] == parts[0][0] for p in parts):
        parts = [part[1:] for part in parts]
    return [".".join(part) for part in parts]


def shade_steps(count: int) -> list[str]:
    """Return `count` colours from pale (early) to dark (late)."""
    shares = np.linspace(0, 1, count) if count > 1 else np.ones(count)
    colours = np.round(EARLY + shares[:, None] * (LATE - EARLY)).astype(int)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]


def _by_round(monitoring: Monitoring, name: str, values_RS: Floats) -> tuple[go.Figure, str]:
    """Return a figure with the sites in it, and how they are drawn."""
    figure = frame(x="round", y=AXES.get(name, ""))
    words = draw_sites(figure, monitoring.numbers, list(monitoring.sites), values_RS)
    levels = dict(LEVELS.get(name, {}))
    if name == "influence" and len(monitoring.sites) > 1:
        levels[1 / len(monitoring.sites)] = "an equal share"
    for level, meaning in levels.items():
        figure.add_hline(y=level, line={"color": MUTED, "width": 1, "dash": "dot"}, layer="below")
        figure.add_annotation(
            xref="paper", x=0, xanchor="left", y=level, yanchor="bottom", text=meaning,
            showarrow=False, font={"size": 11, "color": MUTED},
        )  # fmt: skip
    if name in RANGES:
        figure.update_yaxes(range=list(RANGES[name]))
    if name in COSINES:
        lowest = min(0.0, float(np.nanmin(values_RS, initial=0.0)))
        figure.update_yaxes(range=[max(-1.05, lowest - 0.1), 1.05])
    if monitoring.numbers:
        whole_rounds(figure, monitoring.numbers)
    return figure, words


def _federation_line(figure: go.Figure, rounds: Sequence[int], values: Floats, label: str) -> None:
    there = np.flatnonzero(np.isfinite(values))
    if len(there) == 0:
        return
    kept = there[thin(len(there))]
    figure.add_scatter(
        x=[rounds[r] for r in kept],
        y=numbers(values[kept]),
        name=label,
        mode="lines",
        line={"color": INK, "width": 3},
    )


def _mark_saturated(figure: go.Figure, monitoring: Monitoring, values_RS: Floats) -> str:
    """Ring the saturated rounds of each site, and return who was, in words."""
    row = {number: index for index, number in enumerate(monitoring.numbers)}
    drawn = np.flatnonzero(np.isfinite(values_RS).any(axis=0))
    x, y, colours, said = [], [], [], []
    for index, (site, found) in enumerate(monitoring.sites.items()):
        if index not in drawn or not found.saturated:
            continue
        said.append(site)
        for number in found.saturated if len(drawn) <= MAX_LINES else ():
            value = values_RS[row[number], index]
            if np.isfinite(value):
                x.append(number)
                y.append(value)
                colours.append(line_style(index)[0])
    if x:
        figure.add_scatter(
            x=x,
            y=numbers(y),
            name="saturated",
            mode="markers",
            marker={
                "symbol": "circle-open", "size": 15, "color": colours, "line": {"width": 2.5},
            },
            hovertemplate="saturated in round %{x}<extra></extra>",
        )  # fmt: skip
    _mark_federation(figure, monitoring.federation_saturated)
    return f" Saturated at some time: {', '.join(said[:20])}." if said else ""


def _mark_federation(figure: go.Figure, rounds: Iterable[int]) -> None:
    """Shade the stretches of rounds in which the federation was saturated."""
    for first, last in stretches(rounds):
        figure.add_vrect(
            x0=first - 0.5, x1=last + 0.5, fillcolor=MUTED, opacity=0.12, line_width=0,
            layer="below",
        )  # fmt: skip


def stretches(rounds: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for number in sorted(rounds):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _side_by_side(columns: Sequence[Floats], num_rows: int) -> Floats:
    return np.stack(columns, axis=1) if columns else np.zeros((num_rows, 0))


def _ends(values_RS: Floats) -> str:
    """Return where the sites were in the last round that has values, in words."""
    there = np.flatnonzero(np.isfinite(values_RS).any(axis=1))
    if len(there) == 0:
        return ""
    last = values_RS[there[-1]][np.isfinite(values_RS[there[-1]])]
    return f" In the last round between {last.min():.3g} and {last.max():.3g}."
