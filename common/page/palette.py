"""Colours that the colour-blind can tell apart, each with a mark and a dash of its own.

Source: Okabe and Ito 2008, Color Universal Design, without black and yellow.
"""

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot")
INK, MUTED, RULE, PALE = "#1b1f24", "#57606a", "#d8dee4", "#eef1f4"


def line_style(index: int) -> tuple[str, str, str]:
    """Return colour, mark and dash of the line at `index`; 28 lines before one repeats."""
    return (
        COLOURS[index % len(COLOURS)],
        MARKS[index % len(MARKS)],
        DASHES[index // len(COLOURS) % len(DASHES)],
    )
