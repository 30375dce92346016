"""Charts with the round on the x axis: learning, participation, time and traffic.

Up to `MAX_LINES` sites are drawn as lines; more of them as bands of quantiles.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from fedward.common.page.palette import BLUE, INK, MUTED, VERMILLION, line_style
from fedward.common.wording import title
from fedward.server.report.charts import Chart, frame, numbers, plain, whole_rounds
from fedward.server.report.series import STATUSES, Floats, Rounds, chunk, thin

MAX_LINES = 8
MAX_GRID_SITES, MAX_GRID_ROUNDS = 30, 60
STATUS_STYLES = {
    "ok": ("accepted", "#9cc3de", "square", ""),
    "rejected": ("rejected", VERMILLION, "triangle-up", "/"),
    "failed": ("failed", INK, "x", "x"),
}


def learning_charts(rounds: Rounds, headline: Sequence[str]) -> tuple[list[Chart], list[Chart]]:
    """Return the charts to show (headline figures and loss) and those to fold away."""
    losses = [name for name in ("eval_loss", "train_loss") if name in rounds.figures]
    others = [name for name in rounds.figures if name not in {*losses, *headline}]
    first = [name for name in headline if name in rounds.figures]
    charts = [figure_by_round(rounds, name) for name in [*first, *losses, *others]]
    # As many losses as headline figures, so that the pairs of charts are full.
    shown = len(first) + min(len(losses), max(1, len(first)))
    return charts[:shown], charts[shown:]


def figure_by_round(rounds: Rounds, name: str) -> Chart:
    """Return one figure over the rounds, per site and over the federation."""
    figure = frame(x="round", y="")
    values_RS = rounds.per_site.get(name)
    what = (
        "no site's own figures"
        if values_RS is None
        else draw_sites(figure, rounds.numbers, rounds.sites, values_RS)
    )
    curve = rounds.curve(name)
    there = np.flatnonzero(np.isfinite(curve))
    kept = there[thin(len(there))]
    figure.add_scatter(
        x=[rounds.numbers[r] for r in kept],
        y=numbers(curve[kept]),
        name="all sites",
        mode="lines+markers" if len(kept) == 1 else "lines",
        line={"color": INK, "width": 3.5},
    )
    whole_rounds(figure, rounds.numbers)
    ends = f" It went from {curve[there[0]]:.3f} to {curve[there[-1]]:.3f}." if len(there) else ""
    return Chart(
        f"round-{name}",
        title(name),
        f"{title(name)} by round: {what}, and their mean.{ends}",
        figure,
    )


def draw_sites(
    figure: go.Figure, rounds: Sequence[int], sites: Sequence[str], values_RS: Floats
) -> str:
    """Draw sites as lines, or as bands where they are many, and return which in words.

    Args:
        figure: with the rounds on its x axis.
        rounds: the R rounds.
        sites: the S names; the place in it decides a site's colour, mark and dash.
        values_RS: (R, S), NaN where there is no value.
    """
    drawn = np.flatnonzero(np.isfinite(values_RS).any(axis=0))
    if len(drawn) <= MAX_LINES:
        for index in drawn.tolist():
            _site_line(figure, rounds, sites[index], index=index, values=values_RS[:, index])
        return f"one line for each of {len(drawn)} sites"
    _bands(figure, rounds, values_RS[:, drawn])
    return f"bands that hold 50 % and 90 % of {len(drawn):,} sites"


def _site_line(
    figure: go.Figure, rounds: Sequence[int], site: str, *, index: int, values: Floats
) -> None:
    colour, mark, dash = line_style(index)
    there = np.flatnonzero(np.isfinite(values))
    kept = there[thin(len(there))]
    figure.add_scatter(
        x=[rounds[r] for r in kept],
        y=numbers(values[kept]),
        name=plain(site),
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": dash},
        marker={"symbol": mark, "size": 7, "maxdisplayed": 8},
        opacity=0.9,
    )


def _bands(figure: go.Figure, rounds: Sequence[int], values_RS: Floats) -> None:
    there = np.flatnonzero(np.isfinite(values_RS).any(axis=1))
    kept = there[thin(len(there))]
    levels = np.nanquantile(values_RS[kept], [0.05, 0.25, 0.75, 0.95], axis=1)
    x = [rounds[r] for r in kept]
    for low, high, name, colour in (
        (levels[0], levels[3], "90 % of sites", "rgba(0,114,178,0.14)"),
        (levels[1], levels[2], "50 % of sites", "rgba(0,114,178,0.30)"),
    ):
        edge = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_scatter(y=numbers(low), showlegend=False, **edge)
        figure.add_scatter(y=numbers(high), name=name, fill="tonexty", fillcolor=colour, **edge)


def participation_chart(rounds: Rounds) -> Chart:
    """Return who trained in which round: a grid of sites, or counts where they are many."""
    words = ", ".join(
        f"{int(rounds.counts(status).sum()):,} {STATUS_STYLES[status][0]}" for status in STATUSES
    )
    if len(rounds.sites) <= MAX_GRID_SITES and len(rounds.numbers) <= MAX_GRID_ROUNDS:
        figure, height = _participation_grid(rounds)
    else:
        figure, height = _participation_counts(rounds)
    return Chart(
        "participation",
        "Who trained in which round",
        f"Training replies by round: {words}.",
        figure,
        height,
    )


def _participation_grid(rounds: Rounds) -> tuple[go.Figure, int]:
    height = 110 + 26 * len(rounds.sites)
    figure = frame(x="round", y="", height_px=height)
    for code, status in enumerate(STATUSES):
        label, colour, mark, _ = STATUS_STYLES[status]
        at_round, at_site = np.nonzero(rounds.status_RS == code)
        if len(at_round) == 0:
            continue
        figure.add_scatter(
            x=[rounds.numbers[r] for r in at_round],
            y=at_site.tolist(),
            name=label,
            mode="markers",
            marker={"symbol": mark, "size": 9 if status == "ok" else 12, "color": colour},
            text=[plain(rounds.sites[s], 60) for s in at_site],
            hovertemplate=f"%{{text}}<br>round %{{x}}: {label}<extra></extra>",
        )
    _site_ticks(figure, rounds.sites)
    whole_rounds(figure, rounds.numbers)
    return figure, height


def _site_ticks(figure: go.Figure, sites: list[str]) -> None:
    figure.update_yaxes(
        tickvals=list(range(len(sites))),
        ticktext=[plain(site) for site in sites],
        range=[len(sites) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(meta={"narrow_ticks": [plain(site, 13) for site in sites]})


def _participation_counts(rounds: Rounds) -> tuple[go.Figure, int]:
    starts = chunk(len(rounds.numbers))
    per = int(starts[1]) if len(starts) > 1 else 1
    figure = frame(x="round", y="replies" if per == 1 else f"replies per {per} rounds")
    for status in STATUSES:
        label, colour, _, pattern = STATUS_STYLES[status]
        counts = np.add.reduceat(rounds.counts(status), starts)
        if counts.sum():
            figure.add_bar(
                x=[rounds.numbers[r] for r in starts],
                y=counts.tolist(),
                name=label,
                marker={"color": colour, "pattern": {"shape": pattern}},
            )
    total = np.add.reduceat((rounds.status_RS >= 0).sum(axis=1), starts)
    refused = total - np.add.reduceat(rounds.counts("ok"), starts)
    some = np.flatnonzero(refused)
    # One of a thousand is too thin to see in a bar.
    figure.add_scatter(
        x=[rounds.numbers[starts[bar]] for bar in some],
        y=total[some].tolist(),
        text=[f"{refused[bar]} lost" for bar in some],
        mode="text",
        textposition="top center",
        textfont={"size": 11, "color": INK},
        showlegend=False,
        hoverinfo="skip",
    )
    figure.update_layout(barmode="stack", bargap=0.25, legend={"traceorder": "normal"})
    whole_rounds(figure, rounds.numbers)
    return figure, 320


def time_chart(rounds: Rounds) -> Chart:
    """Return the seconds that each round took."""
    starts = chunk(len(rounds.numbers))
    per = np.diff([*starts, len(rounds.numbers)])
    mean = np.add.reduceat(rounds.seconds, starts) / per
    figure = frame(x="round", y="", height_px=300, legend=False)
    figure.add_bar(
        x=[rounds.numbers[r] for r in starts],
        y=numbers(mean, 4),
        marker={"color": MUTED},
        hovertemplate="round %{x}: %{y:.2f} s<extra></extra>",
    )
    figure.update_layout(bargap=0.3)
    whole_rounds(figure, rounds.numbers)
    median = float(np.median(rounds.seconds))
    return Chart(
        "time",
        "Seconds per round",
        f"Seconds per round; the median is {median:.2f} s.",
        figure,
        300,
    )


def traffic_chart(rounds: Rounds) -> Chart:
    """Return the bytes per round, both ways, counted at the coordinator."""
    kept = thin(len(rounds.numbers))
    largest = max(float(rounds.bytes_sent.max()), float(rounds.bytes_received.max()), 1.0)
    unit, scale = ("MB", 1e6) if largest >= 1e6 else ("kB", 1e3)
    figure = frame(x="round", y="", height_px=300)
    for values, name, colour, dash in (
        (rounds.bytes_sent, "to the sites", BLUE, "solid"),
        (rounds.bytes_received, "from the sites", VERMILLION, "dash"),
    ):
        figure.add_scatter(
            x=[rounds.numbers[r] for r in kept],
            y=numbers(values[kept] / scale),
            name=name,
            mode="lines",
            line={"color": colour, "width": 2.5, "dash": dash},
        )
    figure.update_yaxes(rangemode="tozero")
    whole_rounds(figure, rounds.numbers)
    return Chart(
        "traffic", f"{unit} per round", f"{unit} sent and received per round.", figure, 300
    )
