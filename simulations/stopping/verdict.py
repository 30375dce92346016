"""What the table of stop rules says, as lines of text and as plain sentences."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from fedward.common.intervals import paired_interval
from fedward.common.task import Metric
from fedward.common.wording import MINUS
from fedward.server.summary import as_json
from fedward.simulations.stopping.comparison import (
    GOAL_PERCENT,
    RESTS,
    TOLERANCE_POINTS,
    Comparison,
    Row,
    best_rule,
)
from fedward.simulations.stopping.rules import FULL, PLATEAU, SATURATION, SHIPPED

CME_RULES = (SATURATION.name, SHIPPED.name, RESTS)
SAME_PATIENTS = (
    "Seeds are other splits of the same patients: for other patients the intervals are too narrow."
)
HEAD = ("rule", "stopped at round", "saved %", "beyond the plateau", "points lost")


def table(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row, as `HEAD` names them: means with 95 % intervals."""
    for row in comparison.rows.values():
        # That of the plateau over itself is 0 by definition.
        beyond = "" if row.name == PLATEAU.name else shown(row.beyond, signed=True)
        yield row.title, shown(row.stopped_at), shown(row.saved), beyond, shown(row.lost, 2)


def sentences(comparison: Comparison) -> list[str]:
    """Return whether CME adds anything over the tuned plateau, the best rule, and the caveats."""
    rows = comparison.rows
    said = [cme_sentence(rows), best_sentence(rows), SAME_PATIENTS]
    if comparison.is_cut:
        said.append(
            "A budget was as long as what was trained: with more `rounds` it may have been longer."
        )
    return said


def cme_sentence(rows: Mapping[str, Row]) -> str:
    """Return whether CME saves more than the tuned plateau, with the intervals of the differences.

    It does where a form of it saves more, clear of chance also when all its forms are looked at
    (Bonferroni), and loses at most the tolerance on average.
    """
    found = [rows[name] for name in CME_RULES if name in rows]
    adding = [row.title for row in found if _adds(row, num_looks=len(found))]
    answer = f"adds something: {' and '.join(adding)}" if adding else "adds nothing clear of chance"
    parts = "; ".join(
        f"{row.title} {shown(row.beyond, signed=True)}, points lost {shown(row.lost, 2)}"
        for row in found
    )
    return (
        f"Over the tuned validation plateau, CME {answer}. Percentage points of the client-epochs "
        f"that it saves beyond the plateau, with 95 % intervals over {found[0].beyond.n} seeds: "
        f"{parts}."
    )


def best_sentence(rows: Mapping[str, Row]) -> str:
    """Return which rule saves most within the tolerance, and whether it meets the goal."""
    best = best_rule(rows)
    if best.name == FULL.name:
        return f"No rule saves anything at no more than {TOLERANCE_POINTS:g} points: goal missed."
    is_met = best.saved.value is not None and best.saved.value >= GOAL_PERCENT
    return (
        f"Most is saved by {best.title} (named after the fact): {shown(best.saved)} % of the "
        f"client-epochs at {shown(best.lost, 2)} points, {shown(best.beyond, signed=True)} beyond "
        f"the tuned plateau. Goal, {GOAL_PERCENT:g} % at no more than {TOLERANCE_POINTS:g} points: "
        f"{'met' if is_met else 'missed'}."
    )


def as_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table as plain values: figures with `value`, `low`, `high`, `n`; and each seed."""
    others = comparison.recordings[0].other_metrics
    return [
        {
            "rule": row.name,
            "title": row.title,
            "stopped_at": as_json(row.stopped_at),
            "saved_percent": as_json(row.saved),
            "saved_beyond_plateau": as_json(row.beyond),
            "lost_points": as_json(row.lost),
            "lost_points_of": {name: as_json(row.lost_of(name)) for name in others},
            "seeds": [
                {
                    "seed": stop.seed,
                    "stopped_at": stop.stopped_at,
                    "saved_percent": stop.saved_percent,
                    "lost_points": stop.lost_points,
                    "lost_points_of": dict(stop.other_points),
                    "tuned_to": None if stop.knobs is None else dict(stop.knobs),
                }
                for stop in row.stops
            ],
        }
        for row in comparison.rows.values()
    ]


def as_csv(comparison: Comparison) -> str:
    """Return a line per rule: each figure with its limits."""
    file = io.StringIO()
    names = ("stopped_at", "saved_percent", "saved_beyond_plateau", "lost_points")
    limits = ("value", "low", "high")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rule", "n", *(f"{name}_{limit}" for name in names for limit in limits)])
    for row in as_rows(comparison):
        cells = [row[name].get(limit) for name in names for limit in limits]
        writer.writerow([row["rule"], len(row["seeds"]), *cells])
    return file.getvalue()


def shown(metric: Metric, decimals: int = 1, *, signed: bool = False) -> str:
    """Return '41.2 [30.1, 52.3]', or a dash."""
    if metric.value is None:
        return "–"
    sign = "+" if signed else ""

    def text(value: float, sign: str = "") -> str:
        return f"{value:{sign}.{decimals}f}".replace("-", MINUS)

    if metric.low is None or metric.high is None:
        return text(metric.value, sign)
    return f"{text(metric.value, sign)} [{text(metric.low)}, {text(metric.high)}]"


def _adds(row: Row, *, num_looks: int) -> bool:
    saved = [stop.saved_percent for stop in row.stops]
    low = paired_interval(saved, row.saved_by_plateau, level=1 - 0.05 / num_looks).low
    lost = row.lost.value
    return low is not None and low > 0 and lost is not None and lost <= TOLERANCE_POINTS
