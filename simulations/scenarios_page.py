"""The four scenarios, for people: tables beside the paper's, what they say, and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedward.common.config.run import RunConfig
from fedward.common.page.palette import BLUE, INK, MUTED, RULE, VERMILLION
from fedward.common.task import Metric
from fedward.common.wording import title
from fedward.simulations.privacy_curve_page import Row, shown, table
from fedward.simulations.scenarios import (
    METRICS,
    SCENARIOS,
    Client,
    Trained,
    mean_gain,
    weakest,
)

PAPERS_DATA = "brain-tumor-mri"
PAPER = {
    1: (0.913, 0.924, 0.8562),
    2: (0.905, 0.946, 0.944),
    3: (0.954, 0.956, 0.9375),
    4: (0.963, 0.9589, 0.9583),
}
"""Accuracy of each client, by scenario: table 2 of Kumar et al. 2025."""
PAPERS_IMAGES, DISTINCT_IMAGES = 3264, 2870


def as_markdown(
    configs: Mapping[int, RunConfig], runs: Sequence[Trained], clients: Sequence[Client]
) -> str:
    """Return tables, findings and, on the paper's images, why the figures differ from its own."""
    config, seeds = configs[1], len({one.seed for one in runs})
    parts = [
        f"# {_name(config)}: four scenarios\n",
        f"{seeds} seeds; 95 % Student's t intervals over them, differences paired by seed. n: test "
        "patients of each seed. Alone: with as many rounds and steps, nothing shared. Majority: "
        "accuracy of always saying the most frequent class.\n",
    ]
    for metric in METRICS:
        parts += [f"## {title(metric)}\n", *table(_rows(config, clients, metric)), ""]
    parts += [
        "## What it says\n",
        "The weakest site is the least accurate alone. The same runs pick it, which flatters its "
        "gain; the mean over the sites is not flattered.\n",
        *(f"- {one}" for one in findings(configs, runs, clients)),
        "",
    ]
    if _is_the_papers(config):
        parts += [
            "## Why it differs from the paper\n",
            *(f"- {one}" for one in reasons(config)),
            "",
        ]
    return "\n".join(parts)


def as_json(
    configs: Mapping[int, RunConfig], runs: Sequence[Trained], clients: Sequence[Client]
) -> Mapping[str, Any]:
    """Return everything that was measured, seed by seed, and what it comes to."""
    return {
        "name": _name(configs[1]),
        "clients": [{**asdict(c), "paper": _paper(configs[1], c, clients)} for c in clients],
        "findings": findings(configs, runs, clients),
        "runs": [asdict(one) for one in runs],
    }


def findings(
    configs: Mapping[int, RunConfig], runs: Sequence[Trained], clients: Sequence[Client]
) -> list[str]:
    """Return for each scenario, in a sentence, whether training together is better than alone."""
    said = []
    for one in SCENARIOS:
        client = weakest([c for c in clients if c.scenario == one])
        accuracy, auroc = (client.figures[metric].gain for metric in METRICS)
        shared = ", ".join(configs[one.number].shared)
        what = "averaging the whole network" if one.same_network else f"sharing {shared}"
        said.append(
            f"{one.number}, {one.title}: {what} {_verdict(accuracy)} training alone at the weakest "
            f"site, {client.site} ({client.network}): accuracy {shown(accuracy, signed=True)}, "
            f"AUROC {shown(auroc, signed=True)}; mean over the sites: accuracy "
            f"{shown(mean_gain(runs, one, METRICS[0]), signed=True)}, AUROC "
            f"{shown(mean_gain(runs, one, METRICS[1]), signed=True)}."
        )
    return said


def reasons(config: RunConfig) -> list[str]:
    """Return why accuracies differ from the paper's table 2, whose images these are."""
    partition, local = config.data.partition, config.local
    assert partition is not None
    own = {model.name: model for model in (config.model, *(config.models or {}).values())}
    presets = ", ".join(
        f"{name} {(model.model_extra or {}).get('preset', 'published')}"
        for name, model in own.items()
    )
    passes = f"{local.epochs} epochs" if local.epochs else f"{local.steps} steps"
    drawn = "all" if partition.num_patients is None else str(partition.num_patients)
    size = " x ".join(str(length) for length in config.data.image.size) if config.data.image else ""
    return [
        f"The paper merges the published training and test images, {PAPERS_IMAGES:,} in all, and "
        "shuffles them. Many are there more than once: 251 of the 394 published test images also "
        "occur in training. Here equal images are one patient and stay on one side of the split.",
        f"Patients: {drawn} of {DISTINCT_IMAGES:,}; the paper has all images. Who is who was never "
        "published, so that slices of one person may still be on both sides, here and there.",
        f"Images: {size} pixels, one grey channel; the paper does not give a size.",
        f"Networks: {presets}, from random weights, with group normalisation. The paper does not "
        "say whether its weights were trained before.",
        f"Training: {config.rounds} rounds of {passes}, batch {local.batch_size}; the paper has 10 "
        "rounds of 10 epochs.",
        "Different networks share what shared names; the paper does not say how it averages "
        "networks that differ.",
        "With the same data all clients are tested on the same patients: three figures, and one "
        "draw of patients. The reports of these runs take sites as independent: their intervals of "
        "means over sites are too narrow.",
        "The paper gives one figure each, without seeds, intervals or the number of test images, "
        "and trains no client alone.",
    ]


def picture(
    configs: Mapping[int, RunConfig], runs: Sequence[Trained], clients: Sequence[Client]
) -> Figure:
    """Return the accuracy of each client in each scenario: together, alone, and the paper's."""
    figure = Figure(figsize=(12.0, 4.6), layout="constrained")
    axes = figure.subplots()
    place = np.array([i + 0.8 * (c.scenario.number - 1) for i, c in enumerate(clients)])
    compared = [client.figures["accuracy"] for client in clients]
    _dots(axes, place - 0.12, [c.federated for c in compared], "o", BLUE, "federated")
    _dots(axes, place + 0.12, [c.alone for c in compared], "s", VERMILLION, "each site alone")
    majority = [client.majority for client in clients]
    axes.plot(place, majority, "_", color=MUTED, ms=16, label="most frequent class")
    papers = [_paper(configs[1], client, clients) for client in clients]
    known = [(x, value) for x, value in zip(place, papers, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "x", color=INK, ms=7, label="the paper")
    axes.set_xticks(place, [f"{c.site}\n{c.network}" for c in clients])
    for one in SCENARIOS:
        middle = float(np.mean(place[[c.scenario == one for c in clients]]))
        axes.annotate(
            f"{one.number}: {one.title}".replace(", ", ",\n"), (middle, 1.02), ha="center",
            xycoords=("data", "axes fraction"), fontsize=9, color=INK,
        )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy on test patients", color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=7)
    axes.grid(color=RULE, lw=0.6, axis="y")
    axes.set_axisbelow(True)
    seeds = len({one.seed for one in runs})
    axes.set_xlabel(f"{seeds} seeds, 95 % intervals".replace("1 seeds", "1 seed"), color=MUTED)
    figure.legend(frameon=False, fontsize=9, ncols=4, loc="outside lower center")
    return figure


def _name(config: RunConfig) -> str:
    """Return the name in the file, from that of the run of scenario 1."""
    return config.name.removesuffix("-1")


def _is_the_papers(config: RunConfig) -> bool:
    return config.data.schema_name == PAPERS_DATA


def _paper(config: RunConfig, client: Client, clients: Sequence[Client]) -> float | None:
    """Return the paper's accuracy for a client; None on other data, or of other sites."""
    sites = sorted({one.site for one in clients})
    figures = PAPER[client.scenario.number]
    if not _is_the_papers(config) or len(sites) != len(figures):
        return None
    return figures[sites.index(client.site)]


def _rows(config: RunConfig, clients: Sequence[Client], metric: str) -> Iterator[Row]:
    head = ["scenario", "site", "network", "n", "federated", "alone", "federated minus alone"]
    yield [*head, "majority", "the paper"] if metric == "accuracy" else head
    for one in clients:
        found = one.figures[metric]
        tested = sorted(set(one.num_tested))
        row = [
            f"{one.scenario.number}: {one.scenario.title}",
            one.site,
            one.network,
            "-".join(str(number) for number in dict.fromkeys((tested[0], tested[-1]))),
            shown(found.federated),
            shown(found.alone),
            shown(found.gain, signed=True),
        ]
        if metric == "accuracy":
            published = _paper(config, one, clients)
            row += [f"{one.majority:.3f}", "" if published is None else f"{published:.3f}"]
        yield row


def _verdict(gain: Metric) -> str:
    if gain.low is None or gain.high is None:
        return "cannot be told from one seed to be better or worse than"
    if gain.low > 0:
        return "is better than"
    return (
        "is worse than" if gain.high < 0 else f"is, in {gain.n} seeds, not seen to be better than"
    )


def _dots(  # noqa: PLR0913 - where, what, and how it looks
    axes: Axes, place: np.ndarray, metrics: Sequence[Metric], mark: str, colour: str, label: str
) -> None:
    value = np.array([one.value for one in metrics], dtype=float)
    low = np.array([m.value if m.low is None else m.low for m in metrics], dtype=float)
    high = np.array([m.value if m.high is None else m.high for m in metrics], dtype=float)
    axes.errorbar(
        place, value, yerr=np.abs([value - low, high - value]), fmt=mark, color=colour,
        lw=1.3, ms=5, capsize=2, label=label,
    )  # fmt: skip
