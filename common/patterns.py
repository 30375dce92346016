"""Names that shell patterns select, read from left to right; a leading `!` takes names out."""

import fnmatch
from collections.abc import Iterable, Sequence

from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean


def matching(
    patterns: Sequence[str], known: Iterable[str], *, key: str, what: str
) -> tuple[str, ...]:
    """Return the names that the patterns select, in the order of `known`.

    Args:
        patterns: an empty sequence selects nothing.
        known: all names.
        key: where in run.yaml the patterns stand, for messages.
        what: what is named: tensor, layer ...

    Raises:
        ConfigError: a pattern matches no name.
    """
    names = list(known)
    chosen: set[str] = set()
    for pattern in patterns:
        found = set(fnmatch.filter(names, pattern.removeprefix("!")))
        if not found:
            raise ConfigError(
                f"{key}: pattern {pattern!r} matches no {what} of the model"
                f"{did_you_mean(pattern, names)}; it has {', '.join(names) or 'none'}"
            )
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    return tuple(name for name in names if name in chosen)
