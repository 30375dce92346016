"""Builds `summary.json` from what a run returned; its shape is the contract of INTERFACE.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedward.common.config.run import LocalConfig, RunConfig
from fedward.common.intervals import mean_interval, site_mean
from fedward.common.metrics import highest_of
from fedward.common.study import Study
from fedward.common.task import Metric
from fedward.server.history import Entry
from fedward.server.privacy_summary import epsilons, privacy_summary
from fedward.server.rounds import Outcome
from fedward.server.sampling import num_sampled

Figures = dict[str, dict[str, Any]]


def summarise(
    study: Study,
    outcome: Outcome,
    baselines: Mapping[str, Outcome],
    *,
    site_ids: Iterable[str],
    history: Sequence[Entry],
) -> dict[str, Any]:
    """Return the summary of one repetition.

    What happened on the way is counted from the history, which a resumed run has whole.
    """
    config = study.config
    rounds = [e for e in history if e.site is None and e.phase == "train"]
    refused = [e for e in history if e.status in {"rejected", "failed"}]
    spent = epsilons(history)
    delta = config.privacy.delta if config.privacy is not None else None
    sites = {
        site: _site_summary(
            outcome.evaluations.get(site, {}), spent.get(site, spent.get(None)), delta
        )
        for site in sorted(site_ids)
    }
    watched = (
        {"monitor": monitor_summary(config, len(sites), history)} if _is_watched(config) else {}
    )
    return {
        "name": config.name,
        "task": config.task,
        "primary_metric": study.task.primary_metric,
        "secondary_metric": study.task.secondary_metric,
        "model": config.model.name,
        "strategy": config.strategy.name,
        "engine": config.engine.name,
        "seed": study.seed,
        "rounds_run": outcome.progress.round_number,
        "stopped_by": outcome.stopped_by,
        "sites": sites,
        "global": global_figures({site: found["metrics"] for site, found in sites.items()}),
        "baselines": {kind: _baseline(found) for kind, found in baselines.items()},
        "repeats": [],
        "skipped_rounds": [e.round_number for e in rounds if e.status == "skipped"],
        "rejected": [
            {"round": e.round_number, "site": e.site, "status": e.status, "reason": e.reason}
            for e in refused
        ],
        "seconds": {"total": None, "rounds": [round(e.seconds or 0.0, 4) for e in rounds]},
        "bytes": {
            "sent": sum(e.bytes_sent or 0 for e in history),
            "received": sum(e.bytes_received or 0 for e in history),
        },
        "peak_memory_bytes": None,
        **_earlier(study),
        **watched,
        **privacy_summary(study, history, sorted(baselines)),
    }


def monitor_summary(config: RunConfig, num_sites: int, history: Sequence[Entry]) -> dict[str, Any]:
    """Return what the monitor saw and saved over a run.

    An epoch is a pass over a site's training patients; in `client_epochs` they are counted of
    the replies that were accepted. Saved are those of the sites that rested and of the rounds
    that were not run, against `config.rounds` with as many sites as a round has.
    `saturated_from` is the first round of the stretch that lasts to the end, or None.
    """
    trained = [e for e in history if e.phase == "train" and e.site and e.status == "ok"]
    resting = [e for e in history if e.site and e.status == "skipped"]
    own_rounds = [e for e in history if e.phase == "train" and e.site is None]
    epochs = {e.site: _epochs(config.local, e.num_examples) for e in trained}
    mean = sum(epochs.values()) / len(epochs) if epochs else 0.0
    left = (config.rounds - len(own_rounds)) * num_sampled(num_sites, config.sampling)
    saved = left * mean + sum(epochs.get(e.site, mean) for e in resting)
    return {
        "client_epochs": _count(sum(epochs[e.site] for e in trained)),
        "client_epochs_saved": _count(saved),
        "telemetry": "quantised" if any(e.cme for e in trained) else "none",
        "saturated_from": {
            site: _saturated_from([e for e in trained if e.site == site])
            for site in sorted({e.site for e in trained if e.site})
        },
        "federation_saturated_from": _saturated_from(own_rounds),
    }


def _earlier(study: Study) -> dict[str, Any]:
    """Return the runs that trained the first model, where there are any."""
    keys = [run.run_key for run in study.origin.runs]
    return {"goes_on_from": keys} if keys else {}


def _is_watched(config: RunConfig) -> bool:
    return config.monitor.cme is not None or config.monitor.stop is not None


def _epochs(local: LocalConfig, num_examples: int | None) -> float:
    """Return the passes over a site's patients in one round."""
    if local.epochs is not None:
        return local.epochs
    return (local.steps or 0) * local.batch_size / (num_examples or 1)


def _count(epochs: float) -> float:
    return int(epochs) if float(epochs).is_integer() else round(epochs, 2)


def _saturated_from(lines: Iterable[Entry]) -> int | None:
    """Return where the stretch of saturated rounds begins that lasts to the last line."""
    begin: int | None = None
    for entry in lines:
        if not entry.saturated:
            begin = None
        elif begin is None:
            begin = entry.round_number
    return begin


def combine(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary over repetitions: means with t intervals, and each one beneath.

    `n` of a figure is then the number of repetitions in which it was defined.
    """
    first = dict(summaries[0])
    first["repeats"] = [dict(summary) for summary in summaries]
    first["sites"] = {
        site: {**found, "metrics": _mean([s["sites"][site]["metrics"] for s in summaries])}
        for site, found in first["sites"].items()
    }
    first["global"] = _mean_global([s["global"] for s in summaries])
    first["baselines"] = {
        kind: {
            "sites": {
                site: {
                    **found,
                    "metrics": _mean(
                        [s["baselines"][kind]["sites"][site]["metrics"] for s in summaries]
                    ),
                }
                for site, found in baseline["sites"].items()
            },
            "global": _mean_global([s["baselines"][kind]["global"] for s in summaries]),
        }
        for kind, baseline in first["baselines"].items()
    }
    if "monitor" in first:
        first["monitor"] = _monitors([s["monitor"] for s in summaries])
    first["rejected"] = [entry for s in summaries for entry in s["rejected"]]
    first["bytes"] = {way: sum(s["bytes"][way] for s in summaries) for way in ("sent", "received")}
    return first


def _monitors(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums over repetitions; who was saturated when is told by each one alone."""
    sums = {
        name: _count(sum(one[name] for one in found))
        for name in ("client_epochs", "client_epochs_saved")
    }
    told = {one["telemetry"] for one in found}
    return {**sums, "telemetry": "none" if told == {"none"} else "quantised"}


def _site_summary(
    report: Mapping[str, Any], epsilon: float | None, delta: float | None
) -> dict[str, Any]:
    kept = {key: report[key] for key in ("subgroups", "calibration") if key in report}
    return {
        "num_examples": report.get("num_examples", {}),
        "metrics": report.get("metrics", {}),
        "epsilon": epsilon,
        "delta": None if epsilon is None else delta,
        **kept,
    }


def _baseline(outcome: Outcome) -> dict[str, Any]:
    sites = {site: {"metrics": r["metrics"]} for site, r in sorted(outcome.evaluations.items())}
    return {"sites": sites, "global": global_figures({s: f["metrics"] for s, f in sites.items()})}


def global_figures(sites: Mapping[str, Figures]) -> dict[str, Any]:
    """Return the unweighted means over the sites where a figure is defined."""
    names = sorted({name for figures in sites.values() for name in figures})
    metrics = {
        name: as_json(site_mean([_metric(f[name]) for f in sites.values() if name in f]))
        for name in names
    }
    return {"estimator": "site-mean", "num_sites": len(sites), "metrics": metrics}


def _mean_global(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**found[0], "metrics": _mean([g["metrics"] for g in found])}


def _mean(repeated: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over repetitions, with its interval and their number."""
    names = sorted({name for figures in repeated for name in figures})
    combined: Figures = {}
    for name in names:
        figures = [f[name] for f in repeated if name in f]
        values = [f["value"] for f in figures if f.get("value") is not None]
        if values:
            combined[name] = as_json(_within_range(mean_interval(values), highest_of(name)))
        else:
            combined[name] = dict(figures[0])
    return combined


def _within_range(mean: Metric, highest: float) -> Metric:
    """Cut a t interval where the figure itself ends; none of ours is below 0."""
    if mean.low is None or mean.high is None:
        return mean
    return replace(mean, low=max(mean.low, 0.0), high=min(mean.high, highest))


def _metric(figure: Mapping[str, Any]) -> Metric:
    keys = ("value", "low", "high", "n", "reason")
    return Metric(**{key: figure.get(key) for key in keys})


def as_json(metric: Metric) -> dict[str, Any]:
    """Return a figure as summary.json shows it: without the keys that do not apply."""
    if metric.value is None:
        return {"value": None, "reason": metric.reason, "n": metric.n}
    shown = {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}
    return {key: value for key, value in shown.items() if value is not None}
