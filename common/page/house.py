"""The style sheet that every page begins with."""

from importlib import resources


def house_css() -> str:
    """Return the style of text, tables, figures and paper; a page adds its own parts after it."""
    return resources.files("fedward.common.page").joinpath("house.css").read_text(encoding="utf-8")
