"""The charts of the live page as components of Dash, fitted to the width of the screen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from fedward.server.live.aria import aria
from fedward.server.live.source import Snapshot
from fedward.server.report.charts import Chart
from fedward.server.report.charts_cme import (
    acf_chart,
    covariance_chart,
    figure_chart,
    influence_chart,
    update_chart,
)
from fedward.server.report.charts_rounds import (
    learning_charts,
    participation_chart,
    time_chart,
    traffic_chart,
)
from fedward.server.report.monitoring import Monitoring
from fedward.server.report.series import Rounds

HEADLINES = ("auroc", "dice")
LAYER_FIGURES = ("rho", "log_mag", "map_cos", "top1")
MAX_FOLDED = 12
CONFIG: Any = {"displayModeBar": False, "displaylogo": False, "responsive": True}
Content = list[Any]


def headline(rounds: Rounds) -> list[str]:
    """Return the figures that are shown first: known ones, else the first that is no loss."""
    known = [name for name in HEADLINES if name in rounds.figures]
    others = [name for name in rounds.figures if not name.endswith("loss")]
    return known or others[:1]


def chart(drawn: Chart, *, narrow: bool, extra: str = "") -> html.Figure:
    """Return a chart with its caption, and with the words that stand for it."""
    height = _fit(drawn, narrow=narrow)
    return html.Figure(
        [
            html.Figcaption(drawn.caption),
            html.Div(
                dcc.Graph(
                    id=f"chart-{drawn.key}",
                    figure=drawn.spec,
                    config=CONFIG,
                    style={"height": f"{height}px"},
                ),
                role="img",
                **aria(label=drawn.description),
            ),
        ],
        className=extra,
    )


def pairs(charts: Sequence[Chart], *, narrow: bool) -> html.Div:
    """Return charts two beside each other, or one below the other on a narrow screen."""
    return html.Div([chart(one, narrow=narrow) for one in charts], className="pair")


def learning(snapshot: Snapshot, *, narrow: bool) -> Content:
    """Return the curves of figures and losses; all but the first few folded away."""
    if not snapshot.rounds.figures:
        return []
    shown, folded = learning_charts(snapshot.rounds, headline(snapshot.rounds))
    content: Content = [pairs(shown, narrow=narrow)]
    if folded:
        content.append(
            html.Details(
                [
                    html.Summary(f"{len(folded)} more figures" if len(folded) > 1 else "One more"),
                    pairs(folded[:MAX_FOLDED], narrow=narrow),
                ]
            )
        )
    return content


def participation(snapshot: Snapshot, *, narrow: bool) -> Content:
    """Return who trained in which round."""
    if not snapshot.rounds.sites:
        return []
    return [chart(participation_chart(snapshot.rounds), narrow=narrow)]


def influence(snapshot: Snapshot, *, narrow: bool) -> Content:
    """Return how each site moves the model; nothing where that is not computed."""
    found = snapshot.monitoring
    if found is None or not found.has("influence"):
        return []
    charts = [influence_chart(found)]
    charts += [update_chart(found, name) for name in ("cosine", "norm_ratio") if found.has(name)]
    words = (
        "How far each site's update went along the round's; the shares of a round sum to 1. A "
        "large share is no mark of quality, and a small or negative one none of the lack of it."
    )
    return [html.P(words, className="note"), pairs(charts, narrow=narrow)]


def cost(snapshot: Snapshot, *, narrow: bool) -> Content:
    """Return the time and the bytes of the rounds."""
    if not snapshot.rounds.numbers:
        return []
    return [pairs([time_chart(snapshot.rounds), traffic_chart(snapshot.rounds)], narrow=narrow)]


def maps(monitoring: Monitoring, layer: str, number: int, *, narrow: bool) -> Content:
    """Return the maps of a layer in one round, in the colours of the whole run."""
    return [chart(covariance_chart(monitoring, layer, rounds=[number]), narrow=narrow)]


def layer_figures(monitoring: Monitoring, layer: str, *, narrow: bool) -> Content:
    """Return the curves of a layer's figures, with marks where a site was saturated."""
    charts = [
        figure_chart(monitoring, name, layer)
        for name in LAYER_FIGURES
        if any(np.isfinite(monitoring.layer_figure(s, layer, name)).any() for s in monitoring.sites)
    ]
    return [pairs(charts, narrow=narrow)] if charts else []


def acf(monitoring: Monitoring, site: str, *, narrow: bool) -> Content:
    """Return the ACF of a site's layers over the rounds."""
    return [chart(acf_chart(monitoring, site), narrow=narrow)]


def _fit(drawn: Chart, *, narrow: bool) -> int:
    """Set sizes and labels of a chart for the screen, and return its height in pixels."""
    layout = drawn.figure.layout
    meta: dict[str, Any] = layout.meta or {}
    # What somebody hid in the legend stays hidden when the next round comes.
    layout.uirevision = drawn.key
    if not narrow:
        return drawn.height_px
    layout.font.size = 12
    layout.legend.font.size = 11
    if meta.get("narrow_ticks"):
        drawn.figure.update_yaxes(ticktext=meta["narrow_ticks"])
    if meta.get("narrow"):
        drawn.figure.update_layout(meta["narrow"])
    else:
        layout.xaxis.nticks = 6
    layout.height = int(meta.get("narrow_height") or drawn.height_px)
    return int(layout.height)
