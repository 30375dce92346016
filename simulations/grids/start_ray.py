"""Starts Ray quietly: its own cluster per run, or an existing one by address."""

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray

from fedward.common.errors import NetworkError
from fedward.common.quiet import quiet_third_parties

CONNECT_TIMEOUT_S = 5.0
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
    # Ray makes its workers yield to everybody (15). Beside two busy processes on two cores an actor
    # then took three minutes to import torch, and a run 213 s in place of 22.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads_per_actor))
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if options.address is not None:
        _check_reachable(options.address)
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


def _check_reachable(address: str) -> None:
    """Raise `NetworkError` at once where Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # such as `auto`: only Ray knows
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise NetworkError(f"engine.address: no Ray cluster at {address} ({reason})") from error
