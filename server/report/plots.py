"""`plots/*.png` for slides and papers: how the model learned, and each site against baselines."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedward.common.page.palette import INK, MUTED
from fedward.common.wording import title
from fedward.server.report.arms import ARMS
from fedward.server.report.charts_sites import MAX_ROWS
from fedward.server.report.monitoring import read_monitoring
from fedward.server.report.plots_cme import write_monitoring_plots
from fedward.server.report.plots_parts import UNSAFE, literal, panel, save, site_curves
from fedward.server.report.record import RunRecord, read_run
from fedward.server.report.series import Rounds, read_rounds
from fedward.server.report.verdict import Comparison, compare_sites


def write_plots(run_dir: Path) -> list[Path]:
    """Write the plots that the run has figures for into `run_dir/plots`; return their paths.

    A second headline figure, such as Dice, has a `sites-` plot of its own.

    Raises:
        FedwardError: `summary.json` is missing, or a file is not what it should be.
    """
    run = read_run(run_dir)
    rounds = read_rounds(run_dir, list(run.federated.sites))
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    written = []
    if rounds.numbers:
        written.append(save(_convergence(run, rounds), folder / "convergence.png"))
    for metric in run.headline_metrics:
        sites = [c for c in compare_sites(run, metric) if _drawable(c)]
        suffix = "" if metric == run.primary_metric else f"-{UNSAFE.sub('-', metric)}"
        if sites:
            written.append(save(_sites(run, sites, metric), folder / f"sites{suffix}.png"))
    monitoring = read_monitoring(run_dir)
    if monitoring is not None:
        written += write_monitoring_plots(monitoring, folder, run.name)
    return written


def _convergence(run: RunRecord, rounds: Rounds) -> Figure:
    loss = "eval_loss" if "eval_loss" in rounds.figures else "train_loss"
    names = [name for name in (*run.headline_metrics, loss) if name in rounds.figures]
    figure = Figure(figsize=(5.2 * max(len(names), 1), 3.8), layout="constrained")
    for place, name in enumerate(names, start=1):
        _by_round(panel(figure, 1, len(names), place), rounds, name)
    figure.suptitle(run.name, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _by_round(axes: Axes, rounds: Rounds, name: str) -> None:
    values_RS = rounds.per_site.get(name, np.zeros((len(rounds.numbers), 0)))
    site_curves(axes, rounds.numbers, rounds.sites, values_RS)
    x = np.array(rounds.numbers)
    curve = rounds.curve(name)
    there = np.isfinite(curve)
    axes.plot(x[there], curve[there], color=INK, lw=2.6, label="all sites")
    axes.set_xlabel("round", color=MUTED)
    axes.set_title(title(name), loc="left", fontsize=11, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)


def _sites(run: RunRecord, sites: Sequence[Comparison], metric: str) -> Figure:
    """Return value and interval per site and way of training; the first `MAX_ROWS` sites."""
    shown = sites[:MAX_ROWS]
    figure = Figure(figsize=(7.2, 1.6 + 0.48 * len(shown)), layout="constrained")
    axes = panel(figure, 1, 1, 1)
    for position, (name, style) in enumerate(ARMS.items()):
        rows = [(r, m) for r, c in enumerate(shown) if (m := getattr(c, name)).value is not None]
        if not rows:
            continue
        values = np.array([m.value for _, m in rows])
        low = np.array([m.value if m.low is None else m.low for _, m in rows])
        high = np.array([m.value if m.high is None else m.high for _, m in rows])
        axes.errorbar(
            values,
            [r + (position - 1) * 0.24 for r, _ in rows],
            xerr=np.abs([values - low, high - values]),
            fmt=style.mark_png,
            markersize=5,
            color=style.colour,
            lw=1.6,
            label=style.label,
        )
    axes.set_yticks(range(len(shown)), [literal(c.site) for c in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    cut = "" if len(shown) == len(sites) else f", the first {len(shown)} of {len(sites):,} sites"
    axes.set_title(
        f"{literal(run.name, 60)}: {title(metric)} with 95 % intervals{cut}",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.08))
    return figure


def _drawable(comparison: Comparison) -> bool:
    return any(getattr(comparison, name).value is not None for name in ARMS)
