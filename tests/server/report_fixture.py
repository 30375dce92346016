"""Builds the folder of a run that never happened, with figures like those of real ones."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.intervals import mean_interval, site_mean
from fedward.common.metrics import binary_metrics, calibration_curve
from fedward.common.task import Metric

HEART = ("cleveland", "hungarian", "switzerland", "va-long-beach")
CONFIG = "version: 1\nname: heart-disease\nseed: 1\nrounds: {rounds}\n# <script>evil()</script>\n"


@dataclass(frozen=True)
class FakeRun:
    """What the run should look like."""

    sites: tuple[str, ...] = HEART
    num_rounds: int = 20
    seeds: tuple[int, ...] = (1,)
    baselines: tuple[str, ...] = ("local", "pooled")
    stopped_by: str = "rounds"
    evaluated: bool = True
    one_class_site: int | None = 2
    refusals: bool = True
    skill: float = 1.0


def build_run(folder: Path, run: FakeRun | None = None) -> Path:
    """Write summary, history and configuration of `run` into `folder` and return it."""
    run = run or FakeRun()
    folder.mkdir(parents=True, exist_ok=True)
    each = [_summary(run, seed) for seed in run.seeds]
    summary = each[0] if len(each) == 1 else _mean_of(each)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG.format(rounds=run.num_rounds), encoding="utf-8")
    lines = _history(run, each[0]["rejected"])
    (folder / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def as_json(metric: Metric) -> dict[str, Any]:
    """Return a figure as INTERFACE writes it."""
    entry = {key: value for key, value in asdict(metric).items() if value is not None}
    return {"value": None, **entry} if metric.value is None else entry


def _summary(run: FakeRun, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    counts = generator.integers(60, 220, len(run.sites))
    # Training alone loses more where there are fewer patients.
    arms = {
        "federated": np.full(len(run.sites), 1.5 * run.skill),
        "local": run.skill * (0.2 + counts / 200),
        "pooled": np.full(len(run.sites), 1.6 * run.skill),
    }
    results = {
        arm: {
            site: _site(run, index, int(counts[index]), float(skill[index]), seed)
            for index, site in enumerate(run.sites)
        }
        for arm, skill in arms.items()
    }
    refused = _refusals(run)
    return {
        "name": "heart-disease",
        "task": "ehr-classification",
        "model": "mlp",
        "strategy": "fedavg",
        "engine": "ray",
        "seed": seed,
        "created": "2025-11-21T10:33:00+00:00",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "flwr": "1.41.0", "fedward": "0.1.0"},
        "primary_metric": "auroc",
        "rounds_run": run.num_rounds,
        "stopped_by": run.stopped_by,
        "sites": results["federated"] if run.evaluated else _without_figures(results["federated"]),
        "global": _overall(results["federated"]) if run.evaluated else {},
        "baselines": {
            name: {"sites": results[name], "global": _overall(results[name])}
            for name in run.baselines
        },
        "repeats": [],
        "rejected": refused,
        "skipped_rounds": [run.num_rounds] if run.stopped_by == "quorum" else [],
        "seconds": {"total": 31.2, "start_up": 6.0, "rounds": [1.2] * run.num_rounds},
        "bytes": {"sent": 1_234_560, "received": 1_204_200},
        "peak_memory_bytes": 812_345_678,
    }


def _site(run: FakeRun, index: int, count: int, skill: float, seed: int) -> dict[str, Any]:
    # Every arm is tested on the same patients of the site.
    generator = np.random.default_rng([seed, index])
    signal = generator.normal(0, 1, count)
    label = (generator.random(count) < 1 / (1 + np.exp(-2 * signal + 0.4))).astype(np.int64)
    noise = generator.normal(0, 1, count)
    logit = skill * signal + (1.6 - skill) * noise - 0.3
    if index == run.one_class_site:
        label[:] = 1
    probability = 1 / (1 + np.exp(-1.4 * logit))
    curve = calibration_curve(label == 1, probability)
    male = generator.random(count) < 0.7
    return {
        "num_examples": {"train": 2 * count, "test": count},
        "metrics": {k: as_json(m) for k, m in binary_metrics(label, probability).items()},
        "calibration": asdict(curve),
        "subgroups": {
            f"sex={name}": {
                "metrics": {
                    k: as_json(m) for k, m in binary_metrics(label[rows], probability[rows]).items()
                }
            }
            for name, rows in (("male", male), ("female", ~male))
        },
        "epsilon": None,
        "delta": None,
    }


def _without_figures(sites: dict[str, Any]) -> dict[str, Any]:
    return {site: {"num_examples": entry["num_examples"]} for site, entry in sites.items()}


def _overall(sites: dict[str, Any]) -> dict[str, Any]:
    names = next(iter(sites.values()))["metrics"]
    means = {n: site_mean([Metric(**s["metrics"][n]) for s in sites.values()]) for n in names}
    return {
        "estimator": "site-mean",
        "num_sites": len(sites),
        "metrics": {name: as_json(metric) for name, metric in means.items()},
    }


def _mean_of(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the top level over repetitions: means with t intervals."""
    top = {**each[0], "repeats": each, "sites": _mean_sites([s["sites"] for s in each])}
    top["global"] = {"metrics": _mean_metrics([s["global"].get("metrics", {}) for s in each])}
    top["baselines"] = {
        name: {
            "sites": _mean_sites([s["baselines"][name]["sites"] for s in each]),
            "global": {
                "metrics": _mean_metrics([s["baselines"][name]["global"]["metrics"] for s in each])
            },
        }
        for name in each[0]["baselines"]
    }
    return top


def _mean_sites(each: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        site: {
            "num_examples": first["num_examples"],
            "metrics": _mean_metrics([sites[site].get("metrics", {}) for sites in each]),
        }
        for site, first in each[0].items()
    }


def _mean_metrics(each: list[dict[str, Any]]) -> dict[str, Any]:
    means = {}
    for name in each[0]:
        values = [metrics[name]["value"] for metrics in each]
        defined = [value for value in values if value is not None]
        undefined = Metric(None, n=0, reason=each[0][name].get("reason"))
        means[name] = as_json(mean_interval(defined) if defined else undefined)
    return means


def _refusals(run: FakeRun) -> list[dict[str, Any]]:
    if not run.refusals:
        return []
    last, rounds = run.sites[-1], run.num_rounds
    refusals: list[dict[str, Any]] = [
        {"round": 3, "site": last, "status": "failed", "reason": "RuntimeError: out of memory"},
        {
            "round": 7,
            "site": run.sites[0],
            "status": "rejected",
            "reason": "parameters hold NaN or infinite values",
        },
        {"round": 8, "site": last, "status": "rejected", "reason": "shape (3,), expected (77,)"},
    ]
    return [entry for entry in refusals if entry["round"] <= rounds]


def _history(run: FakeRun, refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    generator = np.random.default_rng(7)
    level = generator.normal(0.8, 0.06, len(run.sites))
    bad = {(entry["round"], entry["site"]): entry for entry in refused}
    lines: list[dict[str, Any]] = []
    for number in range(1, run.num_rounds + 1):
        progress = 1 - np.exp(-number / 5)
        wobble = generator.normal(0, 0.01, (len(run.sites), 2))
        for index, site in enumerate(run.sites):
            head = {"round": number, "site": site, "phase": "train"}
            if (number, site) in bad:
                lines.append({**head, **{k: bad[number, site][k] for k in ("status", "reason")}})
                continue
            loss = 0.75 - 0.4 * progress * level[index] + wobble[index, 0]
            lines.append(
                {
                    **head,
                    "status": "ok",
                    "num_examples": 120,
                    "metrics": {"train_loss": loss},
                    "seconds": 0.1 + abs(wobble[index, 0]),
                    "bytes_sent": 24_000,
                    "bytes_received": 24_400,
                }
            )
        if run.evaluated:
            lines += _evaluations(run, number, level * progress + 0.3 * (1 - progress), wobble)
        figures: list[dict[str, float]] = [
            line.get("metrics", {}) for line in lines if line["round"] == number
        ]
        losses = [figure["train_loss"] for figure in figures if "train_loss" in figure]
        lines.append(
            {
                "round": number,
                "site": None,
                "phase": "train",
                "status": "ok",
                "metrics": {"train_loss": float(np.mean(losses))},
                "seconds": 1.0 + abs(float(wobble[0, 0])) * 20,
            }
        )
    return lines


def _evaluations(
    run: FakeRun, number: int, level: np.ndarray, wobble: np.ndarray
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for index, site in enumerate(run.sites):
        base = float(np.clip(level[index] + wobble[index, 1], 0, 1))
        metrics = {"eval_loss": 0.9 - 0.5 * base, "brier": 0.4 - 0.3 * base, "f1": base - 0.05}
        metrics |= {"sensitivity": base - 0.1, "specificity": base, "accuracy": base - 0.02}
        if index != run.one_class_site:
            metrics |= {"auroc": base, "auprc": base - 0.08}
        lines.append(
            {
                "round": number,
                "site": site,
                "phase": "evaluate",
                "status": "ok",
                "num_examples": 60,
                "metrics": metrics,
                "bytes_sent": 24_000,
                "bytes_received": 900,
            }
        )
    names = {name for line in lines for name in line["metrics"]}
    means = {
        name: float(np.mean([x["metrics"][name] for x in lines if name in x["metrics"]]))
        for name in sorted(names)
    }
    return [*lines, {"round": number, "site": None, "phase": "evaluate", "metrics": means}]
