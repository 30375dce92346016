"""A case's result: measured figures beside what is required, and the table that shows them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure and the rule that it has to keep."""

    what: str
    value: float | str
    rule: str
    holds: bool

    def line(self) -> str:
        """Return the figure as a row."""
        value = f"{self.value:.1f}" if isinstance(self.value, float) else str(self.value)
        return f"{self.what:58} {value:>14}  {self.rule:18} {'ok' if self.holds else 'BROKEN'}"


def at_most(what: str, value: float, limit: float) -> Figure:
    """Return a figure that may not be above `limit`."""
    return Figure(what, value, f"<= {limit:g}", value <= limit)


def at_least(what: str, value: float, limit: float) -> Figure:
    """Return a figure that may not be below `limit`."""
    return Figure(what, value, f">= {limit:g}", value >= limit)


def is_true(what: str, holds: bool, value: str = "") -> Figure:
    """Return a figure that is a fact."""
    return Figure(what, value or ("yes" if holds else "no"), "yes", holds)


def none_of(what: str, found: Iterable[object]) -> Figure:
    """Return a figure that counts what must not be there; a few are named."""
    listed = [str(one) for one in found]
    named = f": {'; '.join(listed[:3])}" if listed else ""
    return Figure(f"{what}{named}", float(len(listed)), "= 0", not listed)


Case = Callable[[], list[Figure]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Enter a case under its name."""

    def enter(one: Case) -> Case:
        assert name not in CASES
        CASES[name] = one
        return one

    return enter
