"""What of CME may leave a site: the form of `report.cme`, and how coarsely it is rounded.

The figures are computed from weights that nothing protects. Rounded, they still say whether a
layer moves, and little else; no bound is proved. Under local differential privacy they would be
post-processing of noised weights, and leave as they are.
"""

import math
from collections.abc import Collection, Mapping

Telemetry = Mapping[str, Mapping[str, float]]
"""By layer: its figures, where they are defined."""

# Decisions rest on changes of several such steps; what is finer tells of patients.
ROUNDED_TO: Mapping[str, float] = {"log_mag": 0.05, "rho": 0.02, "map_cos": 0.02, "top1": 0.02}
ALL = "cme"
"""In a list of what may leave: every figure."""
MAX_LAYERS = 256
MAX_NAME = 200
_DECIMALS = 2
_MARGIN = 1e-3  # rounding may carry a cosine beyond 1
_RANGES = {
    "log_mag": (-400.0, 400.0),
    "rho": (-1.0, 1.0),
    "map_cos": (-1.0, 1.0),
    "top1": (0.0, 1.0),
}


def is_telemetry(values: object) -> bool:
    """Return whether `values` has the form of `Telemetry`, with every figure in its range."""
    return (
        isinstance(values, Mapping)
        and len(values) <= MAX_LAYERS
        and all(_is_name(name) and _are_figures(figures) for name, figures in values.items())
    )


def let_through(values: Telemetry, allowed: Collection[str]) -> dict[str, dict[str, float]]:
    """Return the figures that `allowed` names, rounded; a layer without any is left out.

    Args:
        values: as they were computed.
        allowed: `cme.log_mag` and so on; `cme` for all of them.
    """
    names = {name for name in ROUNDED_TO if {ALL, f"{ALL}.{name}"} & set(allowed)}
    found = {
        layer: {name: _rounded(name, value) for name, value in figures.items() if name in names}
        for layer, figures in values.items()
    }
    return {layer: figures for layer, figures in found.items() if figures}


def figure_names(values: Telemetry) -> list[str]:
    """Return which figures there are, of any layer, in alphabetical order."""
    return sorted({name for figures in values.values() for name in figures})


def _rounded(name: str, value: float) -> float:
    low, high = _RANGES[name]
    step = ROUNDED_TO[name]
    return round(round(min(max(value, low), high) / step) * step, _DECIMALS)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME


def _are_figures(figures: object) -> bool:
    return isinstance(figures, Mapping) and all(
        name in _RANGES and _is_within(value, *_RANGES[name]) for name, value in figures.items()
    )


def _is_within(value: object, low: float, high: float) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return low - _MARGIN <= value <= high + _MARGIN
