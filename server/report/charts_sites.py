"""Charts that compare sites: three ways of training, and calibration."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from fedward.common.intervals import wilson
from fedward.common.metrics import CalibrationCurve
from fedward.common.page.palette import BLUE, INK, MUTED, line_style
from fedward.common.task import Metric
from fedward.common.wording import figure as worded
from fedward.common.wording import title
from fedward.server.report.arms import ARMS
from fedward.server.report.charts import Chart, frame, plain
from fedward.server.report.verdict import Comparison

MAX_ROWS = 30
MAX_CURVES = 8
MAX_BARS = 2


def arms_chart(comparisons: Sequence[Comparison], metric: str, *, key: str = "arms") -> Chart:
    """Return the figure of each site in each way of training, with its interval.

    Args:
        comparisons: of the sites.
        metric: the figure.
        key: names the chart in the page.
    """
    if len(comparisons) > MAX_ROWS:
        return _many_sites_chart(comparisons, metric, key=key)
    arms = {
        name: [getattr(c, name) for c in comparisons]
        for name in ARMS
        if any(getattr(c, name).value is not None for c in comparisons)
    }
    height = 100 + (18 + 14 * len(arms)) * len(comparisons)
    drawn = frame(x=title(metric), y="", height_px=height)
    spacing = 0.24 if len(arms) == 3 else 0.3
    for position, (name, metrics) in enumerate(arms.items()):
        shift = (position - (len(arms) - 1) / 2) * spacing
        _arm_dots(drawn, name, metrics, shift)
    drawn.update_yaxes(
        tickvals=list(range(len(comparisons))),
        ticktext=[plain(c.site) for c in comparisons],
        range=[len(comparisons) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    drawn.update_layout(
        meta={"narrow_ticks": [plain(c.site, 13) for c in comparisons]},
        shapes=[_row_rule(row) for row in range(1, len(comparisons))],
        annotations=[
            _row_note(row, f"undefined: {c.federated.reason}")
            for row, c in enumerate(comparisons)
            if c.federated.value is None
        ],
    )
    words = "; ".join(f"{c.site}: {worded(c.federated)}" for c in comparisons)
    return Chart(
        key,
        f"{title(metric)} by hospital and way of training",
        f"Federated {title(metric)} by hospital: {words}. The table above has every figure.",
        drawn,
        height,
    )


def _arm_dots(drawn: go.Figure, name: str, metrics: Sequence[Metric], shift: float) -> None:
    style = ARMS[name]
    rows = [(row, m) for row, m in enumerate(metrics) if m.value is not None]
    drawn.add_scatter(
        x=[m.value for _, m in rows],
        y=[row + shift for row, _ in rows],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_gap(m.high, m.value) for _, m in rows],
            "arrayminus": [_gap(m.value, m.low) for _, m in rows],
            "thickness": 1.8,
            "width": 0,
            "color": style.colour,
        },
        name=style.label,
        mode="markers",
        marker={"symbol": style.mark, "size": 9, "color": style.colour},
        text=[worded(m) for _, m in rows],
        hovertemplate=f"{style.label}: %{{text}}<extra></extra>",
    )


def _gap(above: float | None, below: float | None) -> float:
    return 0.0 if above is None or below is None else above - below


def _row_rule(row: int) -> dict[str, object]:
    """Return a hairline between two hospitals."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": row - 0.5,
        "y1": row - 0.5,
        "line": {"color": "#eef1f4", "width": 1},
        "layer": "below",
    }


def _row_note(row: int, text: str) -> dict[str, object]:
    """Return words in place of the dots that a hospital lacks."""
    return {
        "text": plain(text, 60),
        "xref": "paper",
        "x": 0.01,
        "xanchor": "left",
        "y": row,
        "showarrow": False,
        "font": {"size": 12, "color": MUTED},
    }


def _many_sites_chart(comparisons: Sequence[Comparison], metric: str, *, key: str) -> Chart:
    """Return the gains of many hospitals in order of size, or their figures without a baseline."""
    gains = sorted(
        (c.gain for c in comparisons if c.gain.value is not None), key=lambda g: g.value or 0.0
    )
    if gains:
        values, y = gains, f"gain in {title(metric)}"
        caption = f"Gain in {title(metric)} from joining, hospitals in order of gain"
    else:
        figures = (c.federated for c in comparisons if c.federated.value is not None)
        values = sorted(figures, key=lambda m: m.value or 0.0)
        y, caption = title(metric), f"{title(metric)}, hospitals in order"
    drawn = frame(x="hospital, in order", y=y, height_px=360)
    x = list(range(1, len(values) + 1))
    edge = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    drawn.add_scatter(y=[m.low for m in values], showlegend=False, **edge)
    drawn.add_scatter(
        y=[m.high for m in values],
        name="95 % interval",
        fill="tonexty",
        fillcolor="rgba(0,114,178,0.18)",
        **edge,
    )
    drawn.add_scatter(
        x=x, y=[m.value for m in values], name=y, mode="lines", line={"color": BLUE, "width": 2.5}
    )
    if gains:
        drawn.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dot"})
    return Chart(key, caption, f"{caption}: {len(values):,} hospitals.", drawn, 360)


def calibration_chart(curves: Mapping[str, CalibrationCurve]) -> Chart:
    """Return observed against predicted; as points without lines where the sites are many."""
    drawn = frame(x="predicted probability", y="observed share", height_px=440)
    drawn.add_scatter(
        x=[0, 1],
        y=[0, 1],
        name="perfect",
        mode="lines",
        line={"color": MUTED, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    if len(curves) <= MAX_CURVES:
        for index, (site, curve) in enumerate(curves.items()):
            _curve(drawn, index, site, curve, bars=len(curves) <= MAX_BARS)
    else:
        _cloud(drawn, list(curves.values()))
    drawn.update_xaxes(range=[-0.02, 1.02])
    drawn.update_yaxes(range=[-0.02, 1.02])
    return Chart(
        "calibration",
        "Observed share against predicted probability, in ten bins of equal size",
        f"Calibration of {len(curves):,} sites: points on the dashed diagonal are well calibrated.",
        drawn,
        440,
    )


def _curve(drawn: go.Figure, index: int, site: str, curve: CalibrationCurve, *, bars: bool) -> None:
    colour, mark, dash = line_style(index)
    limits = [wilson(o * n, n) for o, n in zip(curve.observed, curve.n, strict=True)]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [high - o for (_, high), o in zip(limits, curve.observed, strict=True)],
        "arrayminus": [o - low for (low, _), o in zip(limits, curve.observed, strict=True)],
        "thickness": 1,
        "width": 0,
        "visible": bars,
    }
    drawn.add_scatter(
        x=[round(p, 4) for p in curve.predicted],
        y=[round(o, 4) for o in curve.observed],
        error_y=error,
        name=plain(site),
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": dash},
        marker={"symbol": mark, "size": 8},
        text=[f"n = {n}" for n in curve.n],
        hovertemplate="predicted %{x:.2f}, observed %{y:.2f}, %{text}",
    )


def _cloud(drawn: go.Figure, curves: Sequence[CalibrationCurve], limit: int = 3000) -> None:
    num_points = sum(len(curve.n) for curve in curves)
    shown = curves[:: max(1, -(-num_points // limit))]
    kept = [point for c in shown for point in zip(c.predicted, c.observed, c.n, strict=True)]
    largest = max(n for _, _, n in kept)
    drawn.add_scatter(
        x=[round(p, 3) for p, _, _ in kept],
        y=[round(o, 3) for _, o, _ in kept],
        name="one bin of one site",
        mode="markers",
        marker={
            "size": [round(3 + 6 * (n / largest) ** 0.5, 1) for _, _, n in kept],
            "color": BLUE,
            "opacity": 0.35,
        },
        hoverinfo="skip",
    )
