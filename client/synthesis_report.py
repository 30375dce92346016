"""What a site says beside synthetic rows: which classes are given, and how many were accepted."""

from collections.abc import Mapping

SYNTHESIS = "synthesis"
"""Its key in a report."""
SMALL, SHORT = "too few patients", "too few candidates were accepted"
COPIES = "nearly every row would be the copy of a patient"
REASONS = frozenset({SMALL, SHORT, COPIES})
MAX_NAME = 100
_COUNTS = frozenset(
    {
        "requested", "returned", "candidates", "by_filter", "by_constraints", "by_conditions",
        "filled",
    }
)  # fmt: skip


def withheld(why: str) -> dict[str, str]:
    """Return what the report says of a class of which nothing is given."""
    return {"status": "withheld", "reason": why}


def is_synthesis(report: object) -> bool:
    """Return whether `report` holds nothing but statuses and counts of candidates."""
    if not isinstance(report, Mapping) or not set(report) <= {"synthesiser", "classes"}:
        return False
    classes = report.get("classes", {})
    return (
        _is_name(report.get("synthesiser", ""))
        and isinstance(classes, Mapping)
        and all(_is_name(name) and _is_class(told) for name, told in classes.items())
    )


def _is_class(told: object) -> bool:
    if not isinstance(told, Mapping):
        return False
    if told.get("status") == "withheld":
        return set(told) == {"status", "reason"} and told["reason"] in REASONS
    counts = {key: value for key, value in told.items() if key != "status"}
    return (
        told.get("status") == "given"
        and set(counts) <= _COUNTS
        and all(
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
            for value in counts.values()
        )
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME
