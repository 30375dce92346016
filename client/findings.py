"""What `fedward check` says: one finding per thing looked at, and advice where it is off."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedward.common.errors import (
    ConfigError,
    FedwardError,
    NetworkError,
    SiteDataError,
    StorageError,
)

Status = Literal["ok", "warn", "fail"]
_KINDS: dict[str, type[FedwardError]] = {
    "data": SiteDataError,
    "network": NetworkError,
    "storage": StorageError,
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """`data.labels`, `network.clock` ...: what comes before the dot decides the exit code."""
    status: Status
    text: str
    """What was found. Never a patient's value, nor a count of a small cell."""
    advice: str = ""
    """What to do next; empty where all is well."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 where nothing failed, else the exit code of the first kind that did.

    Data (3) come before the network (4), storage (7) and the configuration (2): who can join is
    decided by the data.
    """
    failed = {one.name.partition(".")[0] for one in findings if one.status == "fail"}
    for kind, error in _KINDS.items():
        if kind in failed:
            return error.exit_code
    return ConfigError.exit_code if failed else 0
