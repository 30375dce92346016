"""What the presets of KDE and KDE-KNN stand for; a parameter that is given wins over its preset."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean
from fedward.synth.tables.bandwidth import Rule, check_bandwidth
from fedward.synth.tables.codec import storable
from fedward.synth.tables.encoder import Missing
from fedward.synth.tables.knn import Vote
from fedward.synth.tables.scale import Transform

Preset = Literal["guarded", "paper"]
Covariance = Literal["isotropic", "full"]


def _check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: given {value!r}, expected {' or '.join(known)}")


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: given {value!r}, expected a whole number from 1")


def _is_number(value: object, low: float, high: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and low <= value <= high  # type: ignore[operator]


@storable
@dataclass(frozen=True)
class KernelSettings:
    """How densities are estimated; see `KDE` for what each means."""

    bandwidth: Rule | float
    covariance: Covariance
    transform: Transform
    missing: Missing
    bounded: bool
    redraw: float | Literal["matched"]
    min_mask_size: int

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth)
        _check_one_of("covariance", self.covariance, get_args(Covariance))
        _check_one_of("transform", self.transform, get_args(Transform))
        _check_one_of("missing", self.missing, get_args(Missing))
        if self.redraw != "matched" and not _is_number(self.redraw, 0, 1):
            raise ConfigError(f"redraw: given {self.redraw!r}, expected matched, or 0 to 1")
        _check_whole("min_mask_size", self.min_mask_size)


@storable
@dataclass(frozen=True)
class FilterSettings:
    """How candidates are judged; see `KDEKNN` for what each means."""

    k: int
    vote: Vote
    exclude_parent: bool

    def __post_init__(self) -> None:
        _check_whole("k", self.k)
        _check_one_of("vote", self.vote, get_args(Vote))


S = TypeVar("S", KernelSettings, FilterSettings)
KERNELS: dict[str, KernelSettings] = {
    "guarded": KernelSettings(
        bandwidth="scott",
        covariance="isotropic",
        transform="auto",
        missing="keep",
        bounded=True,
        redraw="matched",
        min_mask_size=5,
    ),
    "paper": KernelSettings(
        bandwidth=1.0,
        covariance="isotropic",
        transform="none",
        missing="median",
        bounded=False,
        redraw="matched",
        min_mask_size=1,
    ),
}
FILTERS: dict[str, FilterSettings] = {
    "guarded": FilterSettings(k=5, vote="prior", exclude_parent=True),
    "paper": FilterSettings(k=5, vote="majority", exclude_parent=False),
}


def resolved(presets: dict[str, S], model: Any) -> S:
    """Return the settings of a preset, with what `model` says itself in their place.

    Args:
        presets: by name.
        model: has `preset`, and attributes named as the settings; None: the preset's.

    Raises:
        ConfigError: there is no such preset, or a setting cannot be used.
    """
    if model.preset not in presets:
        raise ConfigError(
            f"preset: unknown {model.preset!r}{did_you_mean(str(model.preset), presets)}; known: "
            f"{', '.join(presets)}"
        )
    preset = presets[model.preset]
    given = {one.name: getattr(model, one.name) for one in fields(preset)}
    return replace(preset, **{name: value for name, value in given.items() if value is not None})
