"""Aggregation rules by name: Flower's own classes, and three of ours on the same interface.

`build_strategy` is the only place that constructs one. The round loop samples the sites, so
every strategy is told to take all of the nodes it is shown, with a minimum of one.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)

from fedward.common.errors import ConfigError
from fedward.common.registry import Registry, did_you_mean
from fedward.server.strategies.ditto import Ditto
from fedward.server.strategies.qfedavg import QFedAvgOnReceivedModel
from fedward.server.strategies.scaffold import Scaffold

strategies: Registry[Callable[..., Strategy]] = Registry("strategy")
for _name, _kind in {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedadagrad": FedAdagrad,
    "fedyogi": FedYogi,
    "qfedavg": QFedAvgOnReceivedModel,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    # FedBN is FedAvg over a smaller shared set: see common/parameters.py, `shared_set`.
    "fedbn": FedAvg,
    "scaffold": Scaffold,
    "ditto": Ditto,
}.items():
    strategies.register(_name)(_kind)

_EVERYONE: dict[str, Any] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
_NOT_FOR_USERS = set(_EVERYONE) | {
    "self",
    "num_sites",
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
    "train_metrics_aggr_fn",
    "evaluate_metrics_aggr_fn",
    "train_loss_key",
}


_KEYWORDS = inspect.Parameter.VAR_KEYWORD


def build_strategy(name: str, own: Mapping[str, Any], *, num_sites: int) -> Strategy:
    """Return the strategy `name` with its own settings.

    Args:
        name: as in `strategy.name` of a run.
        own: the other keys of `strategy:`, checked against the constructor's parameters.
        num_sites: of the whole federation, whoever takes part in a round.

    Raises:
        ConfigError: unknown name, unknown key, or a value that the strategy refuses.
    """
    try:
        kind = strategies[name]
    except ConfigError as error:
        raise ConfigError(f"strategy.name: {error}") from None
    parameters = inspect.signature(kind).parameters
    allowed = {
        key: parameter
        for key, parameter in parameters.items()
        if key not in _NOT_FOR_USERS and parameter.kind is not _KEYWORDS
    }
    settings: dict[str, Any] = {}
    for key, value in own.items():
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise ConfigError(
                f"strategy.{key}: {name} has no such key{did_you_mean(key, allowed)}; "
                f"its own keys: {known}"
            )
        settings[key] = _checked(f"strategy.{key}", value, allowed[key].default)
    required = [key for key, p in allowed.items() if p.default is p.empty and key not in settings]
    if required:
        raise ConfigError(f"strategy.{required[0]}: {name} needs this key")
    if "num_sites" in parameters:
        settings["num_sites"] = num_sites
    try:
        return kind(**_EVERYONE, **settings)
    except ValueError as error:
        raise ConfigError(f"strategy {name}: {error}") from error


def _checked(where: str, value: object, default: object) -> object:
    """Return `value` if it is a number of the kind that `default` is."""
    whole = isinstance(default, int) and not isinstance(default, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: expected a number, got {type(value).__name__}")
    if whole and not isinstance(value, int):
        raise ConfigError(f"{where}: expected a whole number, got {value}")
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{where}: expected a number of at least 0, got {value}")
    return value if whole else float(value)
