"""From a configuration with scans to one whose network was planned from all sites' scans.

Sites first add up a fingerprint (`common/tasks/ct_fingerprint.py`), then nnU-Net's rules make a
plan of the sum: spacing, patch, network, batch and window, the same at every site.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedward.common.config.loader import run_config_dict, run_config_from_dict
from fedward.common.config.run import ModelConfig, RunConfig, SamplingConfig, StrategyConfig
from fedward.common.errors import ConfigError
from fedward.common.images.fingerprint import FINGERPRINT_SIZE, Fingerprint
from fedward.common.images.plan import Plan
from fedward.common.task import Statistics

TASK = "ct-fingerprint"


def fingerprint_config(config: RunConfig) -> RunConfig:
    """Return the run of one round that only adds up the fingerprint of the same data.

    Raises:
        ConfigError: the run has no images.
    """
    if config.data.image is None:
        raise ConfigError("data.image: missing; there is nothing to plan a network of images for")
    return config.model_copy(
        update={
            "name": f"{config.name}-fingerprint",
            "task": TASK,
            "model": ModelConfig(name="none"),
            "shared": ("*",),
            "strategy": StrategyConfig(name="fedavg"),
            "rounds": 1,
            "repeat": None,
            "baselines": (),
            "sampling": SamplingConfig(min_replies=config.sampling.min_replies),
        }
    )


def fingerprint_of(statistics: Statistics | None, *, num_axes: int, place: Path) -> Fingerprint:
    """Return what the sums of a fingerprint's run say.

    Raises:
        ConfigError: they are not those of such a run.
    """
    if statistics is None or len(statistics) != FINGERPRINT_SIZE:
        raise ConfigError(
            f"{place}: not a finished run of the task {TASK}; "
            "`fedward plan` without --from makes one"
        )
    return Fingerprint.of(statistics, num_axes=num_axes)


def planned_config(config: RunConfig, plan: Plan) -> RunConfig:
    """Return `config` with the keys that the plan decides; all others stay."""
    values = run_config_dict(config)
    values["model"] = {}  # none of another network's keys
    return run_config_from_dict(_merged(values, plan.as_config()))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, change in changes.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(change, Mapping)
        found[key] = _merged(old, change) if both else change  # type: ignore[arg-type]
    return found
