"""What studies that repeat a run over seeds have in common: kept results, and means of figures.

Each result is a line of a file as soon as it is there, so that an interrupted study goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.metrics import highest_of
from fedward.common.task import Metric

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Result = TypeVar("Result")


def append_result(path: Path, result: "DataclassInstance") -> None:
    """Write one more result to a file of results, in place of a last line that was cut off."""
    known = path.read_bytes() if path.is_file() else b""
    if not known.endswith(b"\n"):
        path.write_bytes(known[: known.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path, kind: type[Result]) -> list[Result]:
    """Return the results in a file; none without one. A last line that was cut off is left out.

    Args:
        path: as `append_result` wrote it.
        kind: the dataclass of the results.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    fields: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [kind(**one) for one in fields]


def over_seeds(values: Sequence[float | None], metric: str) -> Metric:
    """Return the mean with its interval, cut where the figure itself ends."""
    found = mean_interval([value for value in values if value is not None])
    if found.low is None or found.high is None:
        return found
    low, high = max(found.low, 0.0), min(found.high, highest_of(metric))
    return replace(found, low=low, high=high)


def paired_over_seeds(own: Sequence[float | None], other: Sequence[float | None]) -> Metric:
    """Return the mean of `own - other` with its interval, over the seeds that have both."""
    pairs = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
    return paired_interval([a for a, _ in pairs], [b for _, b in pairs])
