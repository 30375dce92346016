"""What all charts of the page share: the frame, the axes, and text that cannot be markup."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fedward.common.page.palette import INK, MUTED, PALE, RULE
from fedward.common.wording import short

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Chart:
    """A figure with the words that stand for it where it cannot be seen."""

    key: str
    caption: str
    description: str
    """What the chart shows, for screen readers."""
    figure: go.Figure
    height_px: int = 340

    @property
    def spec(self) -> dict[str, Any]:
        """The parts that plotly.js draws; `frames` where the chart has a slider."""
        parts = self.figure.to_dict()
        return {key: parts[key] for key in ("data", "layout", "frames") if parts.get(key)}

    @property
    def stops(self) -> list[str]:
        """The names of the slider's stops, of which the last is drawn first; mostly none."""
        return [str(frame.name) for frame in self.figure.frames]


def frame(*, x: str, y: str, height_px: int = 340, legend: bool = True) -> go.Figure:
    """Return an empty figure with titled axes in the house style."""
    axis = {
        "gridcolor": PALE,
        "linecolor": RULE,
        "zerolinecolor": RULE,
        "ticks": "outside",
        "tickcolor": RULE,
        "automargin": True,
        "title": {"font": {"size": 12, "color": MUTED}, "standoff": 10},
        "tickfont": {"size": 12, "color": MUTED},
    }
    figure = go.Figure()
    # "none": without plotly's own template, which would add 6 kB to every chart.
    figure.update_layout(
        template="none",
        height=height_px,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        dragmode=False,
        hovermode="closest",
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": RULE, "font": {"color": INK}},
        showlegend=legend,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        xaxis=axis,
        yaxis=axis,
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def plain(text: str, limit: int = 24) -> str:
    """Return `text` shortened, such that plotly shows it as it is and not as markup."""
    return html.escape(short(text, limit), quote=False)


def numbers(values: Iterable[float], digits: int = 5) -> list[float | None]:
    """Return the values rounded for the page, finer where all are small; NaN becomes a gap."""
    known = [float(v) for v in values]
    largest = max((abs(v) for v in known if np.isfinite(v)), default=0.0)
    if 0 < largest < 0.1:
        digits += int(-np.log10(largest))
    return [round(v, digits) if np.isfinite(v) else None for v in known]


def whole_rounds(figure: go.Figure, rounds: Sequence[int]) -> None:
    """Let the x axis span the rounds (at least one), without ticks between two of them."""
    pad = max(0.6, 0.02 * (rounds[-1] - rounds[0]))
    figure.update_xaxes(tickformat="d", nticks=10, range=[rounds[0] - pad, rounds[-1] + pad])
    figure.update_xaxes(zeroline=False)
    if len(rounds) <= 8:
        figure.update_xaxes(tickvals=list(rounds))
