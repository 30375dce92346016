"""What is told of a failure: where and what kind to the site's log, a code to the coordinator.

The text of an exception can hold a patient's value ("could not convert 'Smith' to float"), so it
goes neither into the log nor out of the site. Texts of fedward's own errors are free of values.
"""

import logging
import secrets
import traceback
from pathlib import PurePath

from fedward.common.errors import FedwardError, RefusedError
from fedward.common.records import REFUSED

MAX_REASON_CHARACTERS = 1000
_FRAMES = 8


def refusal(error: RefusedError) -> str:
    """Return what the coordinator is told of a request that the site's rules do not allow."""
    return one_line(f"{REFUSED} {error}")


def failure(error: BaseException, log: logging.Logger) -> str:
    """Write the failure to the log and return what the coordinator is told of it."""
    entry = secrets.token_hex(4)
    log.error("entry %s: %s", entry, "; from ".join(map(_described, _chain(error))))
    return f"the site could not do it ({type(error).__name__}, entry {entry} of its log)"


def one_line(text: str) -> str:
    """Return `text` as one line of bounded length."""
    line = " ".join(text.split())
    return line[:MAX_REASON_CHARACTERS]


def _described(error: BaseException) -> str:
    steps = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = " > ".join(f"{PurePath(s.filename).name}:{s.lineno} {s.name}" for s in steps)
    text = f": {one_line(str(error))}" if isinstance(error, FedwardError) else ""
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    code = f" (errno {number})" if number is not None else ""
    return f"{type(error).__name__}{code}{text} [{where}]"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
