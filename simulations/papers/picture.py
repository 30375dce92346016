"""What a study found, at a glance: what rows are worth, and what they tell of patients."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward.common.page.palette import INK, MUTED, RULE, VERMILLION, line_style
from fedward.simulations.papers.config import StudyConfig
from fedward.simulations.papers.report import mean_over_seeds
from fedward.simulations.papers.study import CONTROLS, INTERNAL, WEIGHTED, Result

DPI = 130
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P",
           "x": "X", "star": "*", "pentagon": "p"}  # fmt: skip


def picture(config: StudyConfig, results: Sequence[Result]) -> bytes:
    """Return a PNG: AUROC by arm and hospital, and the attack's AUC against the rows given away."""
    arms = list(dict.fromkeys(one.arm for one in results))
    by_arm = {arm: [one for one in results if one.arm == arm] for arm in arms}
    attacked = {arm: found for arm, found in by_arm.items() if any(one.attacks for one in found)}
    figure = Figure(figsize=(12, 1.6 + 0.5 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2) if attacked else (figure.subplots(), None)
    _worth(left, config, by_arm)
    if right is not None:
        _leaks(right, attacked)
    seeds = f"{config.num_seeds} seed{'s' if config.num_seeds > 1 else ''}"
    figure.suptitle(f"{config.name}, {seeds}", x=0.01, ha="left", fontsize=12, fontweight="bold")
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    return file.getvalue()


def _worth(axes: Axes, config: StudyConfig, by_arm: dict[str, list[Result]]) -> None:
    tests = (INTERNAL, *config.data.external)
    _plain(axes, "AUROC after training on the rows (mean of learners)")
    for place, test in enumerate(tests):
        colour, mark, _ = line_style(place)
        shift = 0.16 * (place - (len(tests) - 1) / 2)
        for row, (arm, results) in enumerate(by_arm.items()):
            found = mean_over_seeds(results, test)
            if found.value is None:
                continue
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [row + shift] * 2, color=colour, lw=1.4)
            label = test if row == 0 else None
            axes.plot(found.value, row + shift, MARKERS[mark], color=colour, ms=6, label=label)
            if arm == WEIGHTED:
                axes.axvline(found.value, color=colour, lw=0.8, ls=":")
    axes.set_yticks(range(len(by_arm)), list(by_arm))
    axes.invert_yaxis()
    axes.axhline(len(CONTROLS) - 0.5, color=RULE)
    axes.legend(loc="best", fontsize=8, frameon=False)


def _leaks(axes: Axes, attacked: dict[str, list[Result]]) -> None:
    _plain(axes, "AUC of the membership attack, worst of classes and outliers")
    for place, (arm, results) in enumerate(attacked.items()):
        colour, mark, dash = line_style(place)
        points = []
        for released in next(one.attacks for one in results if one.attacks):
            values = [_worst(one.attacks[released]) for one in results if one.attacks]
            points.append((int(released), sum(values) / len(values)))
        x, y = zip(*points, strict=True)
        style = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}[dash]
        axes.plot(x, y, style, marker=MARKERS[mark], color=colour, lw=1.4, ms=5, label=arm)
    axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
    axes.axhline(0.6, color=VERMILLION, lw=0.8, ls=":")
    axes.annotate("shared up to here", (0.01, 0.605), xycoords=("axes fraction", "data"),
                  color=VERMILLION, fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("rows given away", color=INK)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _worst(risks: dict[str, dict[str, float | None]]) -> float:
    """Return the largest AUC of the density attack over the classes."""
    values = [one["value"] for name, one in risks.items() if name.startswith("density_auc")]
    return max(value for value in values if value is not None)


def _plain(axes: Axes, heading: str) -> None:
    axes.set_title(heading, loc="left", fontsize=10, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.grid(visible=True, axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
