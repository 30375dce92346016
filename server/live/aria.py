"""Attributes for screen readers, which Dash takes as further keywords."""

from typing import Any


def aria(**words: str) -> dict[str, Any]:
    """Return `aria-label` for `label`, and so on."""
    return {f"aria-{name}": text for name, text in words.items()}
