"""What a study found, as tables for people (Markdown) and as JSON for programs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.task import Metric
from fedward.simulations.papers.config import StudyConfig
from fedward.simulations.papers.study import INTERNAL, REAL, WEIGHTED, Result

Row = list[str]


def tables(config: StudyConfig, results: Sequence[Result]) -> Iterator[tuple[str, list[Row]]]:
    """Yield title and rows (the head first) of every table; means over seeds, 95 % intervals."""
    arms = list(dict.fromkeys(one.arm for one in results))
    by_arm = {arm: [one for one in results if one.arm == arm] for arm in arms}
    tests = (INTERNAL, *config.data.external)
    for test in tests:
        yield (
            f"AUROC, trained on each table, tested on {_called(config, test)}",
            _utility(config, by_arm, test),
        )
    for control in (REAL, WEIGHTED):
        yield (
            f"AUROC minus that of {control}, paired by seed",
            _differences(config, by_arm, tests, control),
        )
    if mixed := [one for one in results if one.mixing]:
        yield "AUROC of an SVM (rbf) on real and synthetic rows together", _mixing(mixed, tests)
    yield "Acceptance, plausibility and resemblance", _soundness(by_arm)
    if any(one.attacks for one in results):
        yield "Attacks on membership", _attacks(by_arm)


def as_json(config: StudyConfig, results: Sequence[Result]) -> dict[str, Any]:
    """Return everything that was measured, seed by seed."""
    return {"study": config.model_dump(mode="json"), "results": [asdict(one) for one in results]}


def as_markdown(config: StudyConfig, results: Sequence[Result]) -> str:
    """Return all tables as a page."""
    parts = [f"# {config.name}: {config.num_seeds} seeds from {config.seed}\n"]
    for title, (head, *rows) in tables(config, results):
        lines = [head, ["---"] * len(head), *rows]
        parts += [f"## {title}\n", *("| " + " | ".join(line) + " |" for line in lines), ""]
    return "\n".join(parts)


def shown(metric: Metric, digits: int = 3, *, signed: bool = False) -> str:
    """Return a figure with its interval; a dash where there is none."""
    if metric.value is None:
        return "–"
    sign = "+" if signed else ""
    value = f"{metric.value:{sign}.{digits}f}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} ({metric.low:{sign}.{digits}f} to {metric.high:{sign}.{digits}f})"


def mean_over_seeds(results: Sequence[Result], test: str, learner: str | None = None) -> Metric:
    """Return the AUROC of one arm: of one learner, or the mean of all where it is None."""
    return _mean(_values(results, test, learner))


def _called(config: StudyConfig, test: str) -> str:
    return "other patients of the training hospital" if test == INTERNAL else test


def _utility(config: StudyConfig, by_arm: dict[str, list[Result]], test: str) -> list[Row]:
    head = ["trained on", *config.learners, "mean"]
    rows = [
        [arm, *(shown(mean_over_seeds(results, test, name)) for name in (*config.learners, None))]
        for arm, results in by_arm.items()
    ]
    return [head, *rows]


def _differences(
    config: StudyConfig, by_arm: dict[str, list[Result]], tests: Sequence[str], control: str
) -> list[Row]:
    head = ["trained on", *(f"{name}, {test}" for test in tests for name in config.learners)]
    rows = []
    for arm, results in by_arm.items():
        if arm in (REAL, WEIGHTED):
            continue
        cells = []
        for test in tests:
            for name in config.learners:
                own, other = (_values(one, test, name) for one in (results, by_arm[control]))
                cells.append(shown(_paired(own, other), signed=True))
        rows.append([arm, *cells])
    return [head, *rows]


def _mixing(results: Sequence[Result], tests: Sequence[str]) -> list[Row]:
    head = ["real rows", *tests]
    shares = list(results[0].mixing[INTERNAL])
    return [
        head,
        *(
            [share, *(shown(_mean([one.mixing[test][share] for one in results])) for test in tests)]
            for share in shares
        ),
    ]


def _soundness(by_arm: dict[str, list[Result]]) -> list[Row]:
    made = {arm: results for arm, results in by_arm.items() if results[0].sound}
    first = next(iter(made.values()))[0]
    head = ["rows of", *(f"kept of class {name}" for name in first.acceptance), *first.sound]
    rows = []
    for arm, results in made.items():
        kept = [_mean([one.acceptance[name] for one in results]) for name in first.acceptance]
        sound = [_mean([one.sound[name] for one in results]) for name in first.sound]
        cells = ["–" if m.value is None else f"{m.value:.3g}" for m in (*kept, *sound)]
        rows.append([arm, *cells])
    return [head, *rows]


def _attacks(by_arm: dict[str, list[Result]]) -> list[Row]:
    attacked = {
        arm: [one.attacks for one in results if one.attacks] for arm, results in by_arm.items()
    }
    attacked = {arm: found for arm, found in attacked.items() if found}
    first = next(iter(attacked.values()))[0]
    told = ("density_auc", "density_tpr", "nearest_auc")
    names = [name for name in next(iter(first.values())) if name.startswith(told)]
    rows = []
    for arm, found in attacked.items():
        for released in found[0]:
            values = [[one[released].get(name, {}).get("value") for one in found] for name in names]
            rows.append([arm, f"{int(released):,}", *(shown(_mean(each), 2) for each in values)])
    return [["rows of", "given away", *names], *rows]


def _values(results: Sequence[Result], test: str, learner: str | None) -> list[float | None]:
    if learner is not None:
        return [one.auroc[test][learner] for one in results]
    found: list[float | None] = []
    for one in results:
        values = [value for value in one.auroc[test].values() if value is not None]
        found.append(sum(values) / len(values) if len(values) == len(one.auroc[test]) else None)
    return found


def _mean(values: Sequence[float | None]) -> Metric:
    return mean_interval([one for one in values if one is not None and math.isfinite(one)])


def _paired(own: Sequence[float | None], other: Sequence[float | None]) -> Metric:
    pairs = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
    return paired_interval([a for a, _ in pairs], [b for _, b in pairs])
