"""The process of one run at the coordinator: it checks the request and runs our installed code.

Started by the conductor with its order on standard input, because whatever is on a command line or
in an environment can be read by others.
"""

import hashlib
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fedward.common.errors import (
    FedwardError,
    NetworkError,
    RefusedError,
    StorageError,
    TrustError,
)
from fedward.common.kit import Kit, load_kit
from fedward.common.request import RunRequest, read_request
from fedward.server.link.flower_runtime import TaskInput, TaskLink
from fedward.server.link.runs import claimed, end_run

if TYPE_CHECKING:
    from fedward.server.deployed import Coordinator

INTERRUPTED = 75
"""Exit code of a run that goes on at its next start."""
A_BUG = 70
DISK_EVERY_S = 30.0
DISK_PATIENCE_S = 1800.0
log = logging.getLogger("fedward.run")
RunRounds = Callable[[RunRequest, "Coordinator", Path], None]


@dataclass(frozen=True)
class Order:
    """What the conductor tells a new process."""

    runtime: str
    """host:port of the SuperLink's Runtime API."""
    kit: str
    state: str
    accept: str
    """SHA-256 of the only bundle that is taken."""
    nodes: dict[str, int]
    """Node id of each site of the roster."""
    token: str = field(repr=False)

    def to_json(self) -> str:
        """Return the text for the standard input."""
        return json.dumps(asdict(self))


def main(run_rounds: RunRounds | None = None) -> int:
    """Do what standard input orders, and return the exit code.

    Args:
        run_rounds: default: `fedward.server.deployed.run_request`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupted)
    order = Order(**json.loads(sys.stdin.read()))
    try:
        kit = load_kit(Path(order.kit), "server")
        link = TaskLink(order.runtime, kit.ca_file.read_bytes(), order.token)
        task = link.start()
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400 - our own errors are shown without a traceback
        return error.exit_code
    return _conclude(link, lambda: _run(order, kit, link, task, run_rounds))


def _run(
    order: Order, kit: Kit, link: TaskLink, task: TaskInput, run_rounds: RunRounds | None
) -> None:
    """Run the rounds once all is checked; the folder's status tells how it ended."""
    request = check(task, kit, order.accept)
    with claimed(Path(order.state), request, task.request, task.run_id) as folder:
        link.say(f"run {folder.name}, request {request.hash[:12]} of {request.operator}")
        from fedward.server.deployed import Coordinator, run_request  # torch: takes seconds

        grid = link.grid(task)
        here = Coordinator(kit, grid, order.nodes, link.say)
        try:
            _patiently(lambda: (run_rounds or run_request)(request, here, folder), link.say)
        except NetworkError as error:
            if isinstance(error, TrustError):
                end_run(folder, "failed", str(error), error.exit_code)
            raise  # otherwise goes on when the SuperLink is back, unless an operator stopped it
        except FedwardError as error:
            end_run(folder, "failed", str(error), error.exit_code)
            raise
        except Exception as error:
            end_run(folder, "failed", f"a bug: {type(error).__name__}", A_BUG)
            raise
        else:
            end_run(folder, "finished")
        finally:
            grid.close()


def _patiently(work: Callable[[], None], say: Callable[[str], None]) -> None:
    """Do the work; with a full disk, go on from the last checkpoint once there is space again.

    Raises:
        StorageError: there was none for `DISK_PATIENCE_S`.
    """
    until = time.monotonic() + DISK_PATIENCE_S
    while True:
        try:
            return work()
        except StorageError as error:
            if time.monotonic() > until:
                raise
            text = f"{error}; tried again every {DISK_EVERY_S:g} s"
            log.error("%s", text)  # noqa: TRY400 - our own errors are shown without a traceback
            say(text)
        time.sleep(DISK_EVERY_S)


def check(task: TaskInput, kit: Kit, accept: str) -> RunRequest:
    """Return the request of a task that this coordinator may run.

    Raises:
        RefusedError: another bundle, so another version of fedward or foreign code.
        TrustError: not signed by an operator of the roster.
    """
    found = hashlib.sha256(task.bundle).hexdigest()
    if found != accept:
        raise RefusedError(
            f"bundle {found[:12]} is not that of this coordinator ({accept[:12]}); "
            "submit with the version of fedward that the coordinator runs"
        )
    return read_request(task.request, kit.roster)


def _conclude(link: TaskLink, work: Callable[[], None]) -> int:
    """Do the work, tell the SuperLink how it ended, and return the exit code."""
    code, details = 0, ""
    try:
        work()
    except NetworkError as error:
        code = error.exit_code if isinstance(error, TrustError) else INTERRUPTED
        details = str(error)
    except FedwardError as error:
        code, details = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, details = INTERRUPTED, "the coordinator is being stopped"
    except Exception as error:
        log.exception("the run failed")
        code, details = A_BUG, f"a bug: {type(error).__name__}; see the coordinator's log"
    if code:
        log.error("%s", details)
        details = f"interrupted: {details}" if code == INTERRUPTED else f"exit {code}: {details}"
        link.say(details)
    with suppress(NetworkError):  # an expired token: the SuperLink ends the run by itself
        link.finish(completed=code == 0, details=details)
    return code


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
