"""The runner of a site, as a process: between SuperNode and worker, without patients or torch.

It compares a bundle's hash with the site's list and never unpacks or imports a bundle.
`python -I -m fedward.client.resident.runner --runtime 127.0.0.1:PORT --ca FILE --secret FILE
--accept SHA256 --socket PATH`
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fedward.common.errors import ConfigError, FedwardError, NetworkError

PINNED = "1.41.0"
WORKER_START_S = 600.0
"""How long a starting worker may take: it imports torch and reads the patients."""

_log = logging.getLogger("fedward.runner")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the runner and return its exit code."""
    parser = argparse.ArgumentParser(prog="fedward.client.resident.runner")
    parser.add_argument("--runtime", required=True, help="HOST:PORT of the SuperNode's Runtime API")
    parser.add_argument("--ca", type=Path, required=True, help="certificate of that address")
    parser.add_argument("--secret", type=Path, required=True, help="file shared with the SuperNode")
    parser.add_argument("--accept", action="append", required=True, help="SHA-256 of a bundle")
    parser.add_argument("--socket", type=Path, required=True, help="where the worker listens")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each of five polls a second
    try:
        check_version(version("flwr"))
        _run(args)
    except FedwardError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def check_version(found: str) -> None:
    """Check that Flower is the version whose inside we know.

    Raises:
        ConfigError: it is another one.
    """
    if found != PINNED:
        raise ConfigError(
            f"flwr {found} is installed, but this site's runner is made for {PINNED} exactly; "
            f"pip install flwr=={PINNED}"
        )


def _run(args: argparse.Namespace) -> None:
    # Flower's inside is imported after its version has been looked at.
    from fedward.client.resident.asking import through_worker, wait_for_worker
    from fedward.client.resident.flower_runtime import SiteRuntime
    from fedward.client.resident.tasks import run

    certificate, secret = _content(args.ca), _content(args.secret)
    runtime = SiteRuntime(args.runtime, certificate, secret)
    try:
        # No task is claimed before somebody can do it.
        wait_for_worker(args.socket, WORKER_START_S).close()
    except NetworkError as error:
        _log.warning("%s; tasks will be answered with an error", error)
    _log.info("runner ready, pid %d", os.getpid())
    run(runtime, set(args.accept), through_worker(args.socket))


def _content(path: Path) -> bytes:
    try:
        found = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not found:
        raise ConfigError(f"{path}: is empty")
    return found


if __name__ == "__main__":
    sys.exit(main())
