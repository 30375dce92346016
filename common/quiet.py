"""Flower and Ray say nothing to anyone but us: no telemetry, no update check, no chatter.

A hospital's machines must not call third parties, and both libraries do so by default: Flower
posts an event for each command and run, and its version for an update check; Ray posts usage
statistics. Flower reads its switch *while it is imported*, so every entry point calls
`quiet_third_parties()` before its first import of flwr. Seen in the source of flwr 1.41 and ray
2.55; the traffic itself was not captured.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_third_parties() -> None:
    """Switch off what Flower and Ray send and print; a variable that is already set wins.

    The variables reach every process that is started from here, Ray's workers too. Where flwr was
    imported earlier (a notebook, say), its switches are turned in place.
    """
    telemetry_was_chosen = _TELEMETRY in os.environ
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    loaded = sys.modules.get("flwr.supercore.telemetry")
    if loaded is not None and not telemetry_was_chosen:
        vars(loaded)[_TELEMETRY] = "0"
    for handler in logging.getLogger("flwr").handlers:
        handler.setLevel(max(handler.level, logging.WARNING))


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Keep the root logger's handlers while something is imported that adds its own (Opacus)."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


_TELEMETRY = "FLWR_TELEMETRY_ENABLED"
_SETTINGS = {
    _TELEMETRY: "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # A server must not install what an app's bundle asks for.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without it each start prints a FutureWarning about GPUs that were not asked for.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # One line per worker, not "repeated 4x across cluster".
    "RAY_DEDUP_LOGS": "0",
}
