"""The covariance maps of all sites beside each other, with a stop of the slider for each round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fedward.common.page.palette import MUTED, RULE
from fedward.common.wording import short
from fedward.server.report.charts import Chart, frame, plain
from fedward.server.report.map_scale import (
    COLOUR_STOPS,
    SIDE,
    STEPS,
    MapScale,
    Shown,
    common_scale,
    read_shown,
)
from fedward.server.report.monitoring import Monitoring
from fedward.server.report.series import thin

MAX_MAP_SITES, MAX_STOPS = 8, 24
WIDE_PX, NARROW_PX = 1060, 350
MAX_CELL_PX, TITLE_PX, FOOT_PX, GAP_PX = 330, 30, 66, 14
COLUMNS, NARROW_COLUMNS = 4, 2


@dataclass(frozen=True)
class MapSeries:
    """The maps of one layer: by site, then by round."""

    layer: str
    sites: list[str]
    """In the order of the run; at most MAX_MAP_SITES."""
    num_sites: int
    """How many have maps."""
    rounds: list[int]
    maps: Mapping[str, Mapping[int, Shown]]
    scale: MapScale

    @property
    def is_sketched(self) -> bool:
        """Whether any map is of random sums of neurons."""
        return any(shown.is_sketched for of in self.maps.values() for shown in of.values())


def covariance_chart(
    monitoring: Monitoring,
    layer: str,
    *,
    rounds: Sequence[int] | None = None,
    columns: int | None = None,
) -> Chart:
    """Return the maps of a layer at all sites, a frame per round, all on one colour scale.

    The last round is drawn; frames are there for two rounds and more.

    Args:
        monitoring: of a run that keeps its maps.
        layer: a name of `monitoring.layers`.
        rounds: which have a frame; None: those that have maps, at most 24 of them. The colours
            are those of the whole run in either case.
        columns: of maps beside each other; None: up to four, and two where the page is narrow.
    """
    series = read_series(monitoring, layer, rounds=rounds)
    last = series.rounds[-1] if series.rounds else 0
    figure = frame(x="", y="", legend=False)
    for place, site in enumerate(series.sites):
        figure.add_heatmap(
            **_picture(series, site, last),
            **_axes_of(place),
            coloraxis="coloraxis",
            hoverinfo="skip",
        )
    if len(series.rounds) > 1:
        figure.frames = [_frame(series, number) for number in series.rounds]
    wide, height = arrange(len(series.sites), columns or COLUMNS, WIDE_PX)
    narrow, narrow_height = arrange(len(series.sites), columns or NARROW_COLUMNS, NARROW_PX)
    for name, axis in _panels(series).items():
        figure.layout[name] = {**axis, **wide[name]}
    figure.update_layout(
        _titles(series, last),
        height=height,
        margin={"l": 0, "r": 0, "t": 4, "b": FOOT_PX},
        coloraxis=_coloraxis(series.scale),
        meta={"narrow": narrow, "narrow_height": narrow_height},
    )
    place = monitoring.layers.index(layer) if layer in monitoring.layers else 0
    return Chart(
        f"maps-{place}",
        f"{short(layer, 60)}{' (random sums of its neurons)' if series.is_sketched else ''}",
        f"Covariance maps of layer {layer} at {len(series.sites)} sites in "
        f"{len(series.rounds)} rounds, on one colour scale.",
        figure,
        height,
    )


def read_series(
    monitoring: Monitoring,
    layer: str,
    *,
    rounds: Sequence[int] | None = None,
    side: int = SIDE,
    max_sites: int = MAX_MAP_SITES,
) -> MapSeries:
    """Return the maps of a layer, at most `side` x `side` each.

    Args:
        monitoring: of a run that keeps its maps.
        layer: a name of `monitoring.layers`.
        rounds: which are wanted; None: those that have maps, at most MAX_STOPS. The scale is that
            of both together.
        side: pixels.
        max_sites: the first so many that have maps.
    """
    kept = [site for site in monitoring.sites if monitoring.maps.get(site)]
    sites = kept[:max_sites]
    numbers = sorted({n for site in sites for n in monitoring.maps[site]})
    usual = [numbers[i] for i in thin(len(numbers), MAX_STOPS)]
    wanted = usual if rounds is None else sorted(rounds)
    maps = {
        site: {
            number: shown
            for number in sorted({*usual, *wanted} & monitoring.maps[site].keys())
            if (shown := read_shown(monitoring.maps[site][number], side).get(layer)) is not None
        }
        for site in sites
    }
    scale = common_scale(shown.map_GG for of in maps.values() for shown in of.values())
    return MapSeries(layer, sites, len(kept), wanted, maps, scale)


def arrange(count: int, columns: int, width_px: int) -> tuple[dict[str, Any], int]:
    """Return where each of `count` panels lies, by the name of its axis, and the height in pixels.

    Args:
        count: of panels.
        columns: at most so many beside each other.
        width_px: of the place, for which the panels are square.
    """
    columns = max(1, min(columns, count))
    num_rows = max(1, -(-count // columns))
    cell = min(MAX_CELL_PX, (width_px - GAP_PX * (columns - 1)) / columns)
    inner = num_rows * (cell + TITLE_PX) + 4
    axes: dict[str, Any] = {}
    for place in range(count):
        row, column = divmod(place, columns)
        left, top = column * (cell + GAP_PX), row * (cell + TITLE_PX) + TITLE_PX
        suffix = _suffix(place)
        axes[f"xaxis{suffix}"] = {"domain": [left / width_px, min(1, (left + cell) / width_px)]}
        axes[f"yaxis{suffix}"] = {"domain": [max(0, 1 - (top + cell) / inner), 1 - top / inner]}
    return axes, round(inner + FOOT_PX)


def _suffix(place: int) -> str:
    return str(place + 1) if place else ""


def _axes_of(place: int) -> dict[str, str]:
    return {"xaxis": f"x{_suffix(place)}", "yaxis": f"y{_suffix(place)}"}


def _panels(series: MapSeries) -> dict[str, dict[str, Any]]:
    """Return the axes, by name: a frame round each map, no ticks, and room for the site's name."""
    pixels = max((len(s.map_GG) for of in series.maps.values() for s in of.values()), default=1)
    line = {"showgrid": False, "zeroline": False, "ticks": "", "showticklabels": False,
            "showline": True, "mirror": True, "linecolor": RULE}  # fmt: skip
    axes: dict[str, dict[str, Any]] = {}
    for place in range(len(series.sites)):
        suffix = _suffix(place)
        axes[f"xaxis{suffix}"] = {
            **line, "anchor": f"y{suffix}", "side": "top", "range": [-0.5, pixels - 0.5],
            "constrain": "domain", "constraintoward": "left", "title": {"standoff": 4},
        }  # fmt: skip
        axes[f"yaxis{suffix}"] = {
            **line, "anchor": f"x{suffix}", "range": [pixels - 0.5, -0.5], "scaleanchor":
            f"x{suffix}", "constrain": "domain", "constraintoward": "top",
        }  # fmt: skip
    return axes


def _picture(series: MapSeries, site: str, number: int) -> dict[str, Any]:
    shown = series.maps[site].get(number)
    # One white pixel for none: plotly.js cannot place a picture without a value.
    return {"z": [[0]] if shown is None else series.scale.steps(shown.map_GG)}


def _frame(series: MapSeries, number: int) -> go.Frame:
    return go.Frame(
        name=str(number),
        data=[{"type": "heatmap", **_picture(series, s, number)} for s in series.sites],
        layout=_titles(series, number),
    )


def _titles(series: MapSeries, number: int) -> dict[str, Any]:
    """Return the sites' names above their maps; a missing map is said there."""
    return {
        f"xaxis{_suffix(place)}": {
            "title": {
                "text": plain(site, 18)
                if number in series.maps[site]
                else f"{plain(site, 12)} <i>no map</i>",
                "font": {"size": 13},
            }
        }
        for place, site in enumerate(series.sites)
    }


def _coloraxis(scale: MapScale) -> dict[str, Any]:
    places, words = scale.ticks()
    return {
        "cmin": -STEPS,
        "cmax": STEPS,
        "colorscale": [list(stop) for stop in COLOUR_STOPS],
        "colorbar": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "len": 1,
            "thickness": 10, "ypad": 12, "xpad": 0, "outlinewidth": 0,
            "tickvals": [place * STEPS for place in places], "ticktext": words,
            "tickfont": {"size": 12, "color": MUTED},
            "title": {"text": "covariance", "side": "bottom", "font": {"size": 12}},
        },
    }  # fmt: skip
