"""The form of a report: figures and counts under known keys, and nothing that could carry a text.

The gate (`egress.py`) refuses any other. The messages never quote what was found: it may be a
patient's.
"""

import math
from collections.abc import Mapping
from typing import Any

from fedward.client.synthesis_report import SYNTHESIS, is_synthesis
from fedward.common.errors import SiteDataError
from fedward.common.monitoring import telemetry

PRIVACY = "privacy"
CLIPPED = "clipped"
"""In `PRIVACY`: the share of gradients that were clipped, which only a simulation tells."""
COUNTS = frozenset({"num_examples", "seconds", "num_steps", PRIVACY})
CME = "cme"
VALIDATION = "validation"
FIGURES = frozenset({"metrics", "calibration", "subgroups", VALIDATION, CME, SYNTHESIS})
SPENT = frozenset(
    {"epsilon", "delta", "noise_multiplier", "sample_rate", "signal_to_noise", CLIPPED}
)
MAX_NAME = 100
MAX_REASON = 200
_FIGURE_KEYS = frozenset({"value", "low", "high", "n", "reason"})
_CURVE_KEYS = frozenset({"predicted", "observed", "n"})


def check_report(report: Mapping[str, Any]) -> None:
    """Refuse a report with another key or form than those that are known.

    Raises:
        SiteDataError: it has one; the message says which part of it.
    """
    if not set(report) <= COUNTS | FIGURES:
        raise SiteDataError(
            "the report has a key that is not on the list of what may leave: "
            f"{', '.join(sorted(COUNTS | FIGURES))}; nothing is sent"
        )
    counts = report.get("num_examples", {})
    tests = {
        "seconds": _is_number(report.get("seconds", 0)),
        "num_steps": _is_number(report.get("num_steps", 0)),
        "num_examples": _are_numbers(counts) and set(counts) <= {"train", "test"},
        "metrics": _are_figures(report.get("metrics", {})),
        "subgroups": _are_groups(report.get("subgroups", {})),
        "calibration": "calibration" not in report or _is_curve(report["calibration"]),
        VALIDATION: VALIDATION not in report or _is_validation(report[VALIDATION]),
        CME: telemetry.is_telemetry(report.get(CME, {})),
        PRIVACY: _are_numbers(report.get(PRIVACY, {})) and set(report.get(PRIVACY, {})) <= SPENT,
        SYNTHESIS: is_synthesis(report.get(SYNTHESIS, {})),
    }
    for key, fits in tests.items():
        if not fits:
            raise SiteDataError(f"report.{key} holds something else than figures; nothing is sent")


def _is_number(value: object) -> bool:
    # No bare integer either where it is so large that it could carry a text.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < 2**53
    )


def _are_numbers(values: object) -> bool:
    return isinstance(values, Mapping) and all(
        _is_name(name) and (value is None or _is_number(value)) for name, value in values.items()
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME


def _are_figures(figures: object) -> bool:
    return isinstance(figures, Mapping) and all(
        _is_name(name) and _is_figure(figure) for name, figure in figures.items()
    )


def _is_figure(figure: object) -> bool:
    if not isinstance(figure, Mapping) or not {"value"} <= set(figure) <= _FIGURE_KEYS:
        return False
    reason = figure.get("reason")
    fits = reason is None or (isinstance(reason, str) and len(reason) <= MAX_REASON)
    numbers = [figure.get(key) for key in ("value", "low", "high", "n")]
    return fits and all(number is None or _is_number(number) for number in numbers)


def _are_groups(groups: object) -> bool:
    return isinstance(groups, Mapping) and all(
        _is_name(name)
        and isinstance(group, Mapping)
        and set(group) == {"metrics"}
        and _are_figures(group["metrics"])
        for name, group in groups.items()
    )


def _is_curve(curve: object) -> bool:
    if not isinstance(curve, Mapping) or set(curve) != _CURVE_KEYS:
        return False
    columns = list(curve.values())
    if not all(isinstance(column, list | tuple) for column in columns):
        return False
    numbers = [number for column in columns for number in column]
    return len({len(column) for column in columns}) == 1 and all(map(_is_number, numbers))


def _is_validation(found: object) -> bool:
    return (
        isinstance(found, Mapping)
        and set(found) == {"loss", "num_examples"}
        and _are_numbers(found)
        and found["loss"] is not None
        and isinstance(found["num_examples"], int)
        and found["num_examples"] > 0
    )
