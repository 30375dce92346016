"""Starts Ray quietly: its own cluster per run, or an existing one by address."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray

from fedward.common.errors import NetworkError
from fedward.common.quiet import quiet_third_parties

OBJECT_STORE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class RayOptions:
    """How many actors, and where."""

    num_actors: int
    threads_per_actor: int = 1
    gpus_per_actor: float = 0.0
    address: str | None = None


def start_ray(options: RayOptions) -> bool:
    """Start or join Ray; return whether this process must end it again.

    A private cluster is started even where `RAY_ADDRESS` names another or one runs on this
    machine: two runs never share actors, ports or object stores.

    Raises:
        NetworkError: there is no cluster at `options.address`.
    """
    if ray.is_initialized():
        return False
    quiet_third_parties()
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads_per_actor))
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        if options.address is not None:
            ray.init(address=options.address, **common)
        else:
            ray.init(
                address="local",
                num_cpus=options.num_actors,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
    except (ConnectionError, ValueError) as error:
        raise NetworkError(f"engine.address: no Ray cluster at {options.address}") from error
    return True
