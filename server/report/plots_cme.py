"""`plots/cme-*.png` and `influence.png`: maps and ACF laid out as the paper's figures 4 and 5.

Source: Kumar et al. 2025, doi:10.1007/978-3-031-78198-8_9. Ours: one scale of colours for all maps
and one of heights for all ACF, where the paper has a scale each. S sites, R rounds, L layers.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fedward.common.page.palette import BLUE, INK, MUTED, RULE, line_style
from fedward.server.report.charts_cme import (
    FIGURE_TITLES,
    UPDATE_TITLES,
    acf_range,
    acf_table,
    layer_labels,
    shade_steps,
    stretches,
)
from fedward.server.report.charts_maps import MapSeries, read_series
from fedward.server.report.charts_rounds import MAX_LINES
from fedward.server.report.map_scale import COLOUR_STOPS
from fedward.server.report.monitoring import Monitoring
from fedward.server.report.monitoring_section import MAX_MAP_LAYERS, shown_layers
from fedward.server.report.plots_parts import UNSAFE, dress, literal, panel, save, site_curves
from fedward.server.report.series import Floats, thin

MAX_MAP_ROWS, MAX_MAP_COLUMNS = 6, 4
SIDE = 128
COLOURS = LinearSegmentedColormap.from_list("covariance", list(COLOUR_STOPS))


def write_monitoring_plots(monitoring: Monitoring, folder: Path, name: str) -> list[Path]:
    """Write the plots that `monitoring` has figures for into `folder`; return their paths.

    Args:
        monitoring: of a run.
        folder: must exist.
        name: of the run, for the titles.
    """
    layers = shown_layers(monitoring)
    written = []
    if monitoring.maps:
        for layer in layers[:MAX_MAP_LAYERS]:
            path = folder / f"cme-maps-{UNSAFE.sub('-', layer).strip('-')}.png"
            written.append(save(_maps(monitoring, layer, name), path))
    if layers and (monitoring.has("rho") or monitoring.has("log_mag")):
        figure = _curves(monitoring, layers[0], name)
        written.append(save(figure, folder / "cme-rho.png"))
    if monitoring.has("influence"):
        written.append(save(_influence(monitoring, name), folder / "influence.png"))
    return written


def _maps(monitoring: Monitoring, layer: str, name: str) -> Figure:
    """Return sites as rows and rounds as columns; below them the ACF of each site."""
    numbers = sorted({n for files in monitoring.maps.values() for n in files})
    rounds = [numbers[place] for place in thin(len(numbers), MAX_MAP_COLUMNS)]
    series = read_series(monitoring, layer, rounds=rounds, side=SIDE, max_sites=MAX_MAP_ROWS)
    has_acf = monitoring.has("acf")
    width = 2.3 * max(len(rounds), 3) + 1.0
    heights = [2.35 * len(series.sites) + 0.5, *([2.6] if has_acf else [])]
    figure = Figure(figsize=(width, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(
        f"{literal(name, 60)}: covariance maps of {literal(layer, 60)}"
        + (", and ACF" if has_acf else ""),
        x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK,
    )  # fmt: skip
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _map_grid(parts[0], series, rounds)
    if has_acf:
        grid = parts[1].subplots(1, len(series.sites), squeeze=False, sharey=True)
        for place, site in enumerate(series.sites):
            _acf(grid[0, place], monitoring, site)
        grid[0, 0].set_ylabel("lag-1 ACF", color=MUTED)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        if handles:
            parts[1].legend(handles, labels, title="round", loc="outside right center",
                            frameon=False, fontsize=8, title_fontsize=8)  # fmt: skip
    return figure


def _map_grid(part: SubFigure, series: MapSeries, rounds: Sequence[int]) -> None:
    grid = part.subplots(len(series.sites), len(rounds), squeeze=False)
    drawn = None
    for row, site in enumerate(series.sites):
        grid[row, 0].set_ylabel(literal(site), fontsize=10, color=INK)
        for column, number in enumerate(rounds):
            drawn = _one_map(grid[row, column], series, site, number) or drawn
    for axes, number in zip(grid[0], rounds, strict=True):
        axes.set_title(f"round {number}", fontsize=10, color=INK)
    if drawn is not None:
        places, words = series.scale.ticks(most=4)
        bar = part.colorbar(drawn, ax=grid, shrink=0.6, aspect=30, pad=0.02, label="covariance")
        bar.set_ticks(places, labels=words)
        bar.outline.set_visible(False)


def _one_map(axes: Axes, series: MapSeries, site: str, number: int) -> AxesImage | None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    shown = series.maps[site].get(number)
    if shown is None:
        axes.set_box_aspect(1)
        axes.text(0.5, 0.5, "no map", ha="center", va="center", color=MUTED,
                  transform=axes.transAxes)  # fmt: skip
        return None
    places_GG = series.scale.place(shown.map_GG)
    return axes.imshow(places_GG, cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")


def _acf(axes: Axes, monitoring: Monitoring, site: str) -> None:
    """Draw the ACF of a site: layers across and a line per round, or of one layer its rounds."""
    dress(axes)
    layers, rounds, values_RL = acf_table(monitoring, site)
    axes.set_title(literal(site), fontsize=10, color=INK)
    if len(layers) == 1:
        axes.plot(rounds, values_RL[:, 0], color=BLUE, marker="o", markersize=4, lw=1.4)
        axes.set_xlabel("round", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        for row, number, colour in zip(values_RL, rounds, shade_steps(len(rounds)), strict=True):
            axes.plot(row, color=colour, marker="o", markersize=3, lw=1.4, label=f"{number}")
        labels = [literal(label, 12) for label in layer_labels(layers)]
        axes.set_xticks(range(len(layers)), labels, rotation=90 if len(layers) > 4 else 0)
        axes.set_xlabel("layer", color=MUTED)
    axes.set_ylim(acf_range(monitoring))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _curves(monitoring: Monitoring, layer: str, name: str) -> Figure:
    """Return how far the weights move and whether they keep their direction."""
    names = [figure for figure in ("log_mag", "rho") if monitoring.has(figure)]
    figure = Figure(figsize=(5.4 * len(names), 3.9), layout="constrained")
    for place, which in enumerate(names, start=1):
        axes = panel(figure, 1, len(names), place)
        columns = [monitoring.layer_figure(site, layer, which) for site in monitoring.sites]
        _lines(axes, monitoring, np.stack(columns, axis=1), marked=True)
        axes.set_title(FIGURE_TITLES[which], loc="left", fontsize=10, color=INK)
        if which == "rho":
            axes.set_ylim(-1, 1.05)
            axes.axhline(-0.5, color=MUTED, lw=0.8, ls=":")
            axes.annotate("noise about an optimum", (0.01, -0.5), fontsize=8, color=MUTED,
                          xycoords=("axes fraction", "data"), va="bottom")  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{literal(name, 60)}: {literal(layer, 60)}", x=0.01, ha="left", fontsize=11,
                    fontweight="bold", color=INK)  # fmt: skip
    return figure


def _influence(monitoring: Monitoring, name: str) -> Figure:
    names = [which for which in ("influence", "cosine") if monitoring.has(which)]
    figure = Figure(figsize=(5.4 * len(names), 3.9), layout="constrained")
    for place, which in enumerate(names, start=1):
        axes = panel(figure, 1, len(names), place)
        columns = [getattr(site, which) for site in monitoring.sites.values()]
        _lines(axes, monitoring, np.stack(columns, axis=1), marked=False)
        if which == "influence":
            share = 1 / len(monitoring.sites)
            axes.axhline(share, color=MUTED, lw=0.8, ls=":", label="an equal share")
        axes.set_title(UPDATE_TITLES[which], loc="left", fontsize=10, color=INK)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(literal(name, 60), x=0.01, ha="left", fontsize=11, fontweight="bold",
                    color=INK)  # fmt: skip
    return figure


def _lines(axes: Axes, monitoring: Monitoring, values_RS: Floats, *, marked: bool) -> None:
    """Draw the sites by round, with rings and grey where saturated."""
    site_curves(axes, monitoring.numbers, list(monitoring.sites), values_RS)
    axes.set_xlabel("round", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not marked:
        return
    row = {number: index for index, number in enumerate(monitoring.numbers)}
    label: str | None = "saturated"
    for index, site in enumerate(monitoring.sites.values()):
        if not site.saturated or len(monitoring.sites) > MAX_LINES:
            continue
        y = [values_RS[row[number], index] for number in site.saturated]
        axes.plot(site.saturated, y, ls="", marker="o", markersize=10, mfc="none", mew=1.8,
                  color=line_style(index)[0], label=label)  # fmt: skip
        label = None
    for first, last in stretches(monitoring.federation_saturated):
        axes.axvspan(first - 0.5, last + 0.5, color=MUTED, alpha=0.12, lw=0)
