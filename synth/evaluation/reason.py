"""One reason of a verdict, and how its figures are written."""

from dataclasses import dataclass
from typing import Literal

Topic = Literal["privacy", "validity", "utility", "claim"]
Weight = Literal["blocks", "caution", "supports", "states"]


@dataclass(frozen=True)
class Reason:
    """A sentence that a clinician understands, with the figure, its interval and n."""

    code: str
    """For scripts: `membership`, `copies`, `constraints` ...; stable."""
    topic: Topic
    weight: Weight
    """`blocks`: the cohort is not shareable; `states`: a claim that was not verified."""
    short: str
    """A few words for the headline, such as "patients can be recognised"."""
    sentence: str


def two(value: float) -> str:
    """Return two decimals with a true minus sign."""
    rounded = round(value, 2) or 0.0  # no minus before a zero
    return f"{rounded:.2f}".replace("-", "\N{MINUS SIGN}")


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Return '0.81 [0.77, 0.85]', without the interval where there is none."""
    if low is None or high is None:
        return two(value)
    return f"{two(value)} [{two(low)}, {two(high)}]"


def percent(share: float) -> str:
    """Return '12 %', with a decimal below 10 % and 'under 0.1 %' for less than that."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    digits = 1 if share < 0.1 else 0
    return f"{100 * share:.{digits}f}".removesuffix(".0") + " %"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return '1 row' or '1,080 rows'."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """Return 'a', 'a and b', or 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
