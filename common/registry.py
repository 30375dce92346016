"""A name for each implementation, one `Registry` per family (models, strategies, tasks ...).

Filled by explicit imports; an unknown name answers with the nearest known one.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from fedward.common.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dict from lower-case kebab names to implementations, with a decorator to fill it."""

    def __init__(self, family: str) -> None:
        self.family = family
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its target under `name`."""

        def file(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.family} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise ConfigError(
                f"unknown {self.family} {name!r}{did_you_mean(name, self._entries)}; "
                f"known: {', '.join(sorted(self._entries))}"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ', did you mean ...?' for the nearest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
