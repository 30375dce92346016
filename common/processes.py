"""Child processes that never outlive the process that started them."""

import os
import sys
from collections.abc import Sequence

# The kernel clears the wish at fork, so that only the child itself can ask for it; and asking in
# `preexec_fn` is not safe in a process that has threads. Hence a small program in between, which
# then becomes the child: same process id, and the list of processes shows the child's own name.
_FOLLOW_PARENT = """\
import ctypes, os, signal, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
try:
    os.execvp(argv[0], argv)
except OSError as error:
    sys.exit(f"{argv[0]}: {error.strerror}")
"""

GIVES_BACK_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""For the environment of a process that passes models on. Left alone, glibc raises this limit with
what it has seen, and then keeps the space of the 5 MB pieces that models travel in."""


def follow_parent(argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` and is killed as soon as this process is gone.

    On Linux the end of the *thread* that starts the child counts as the end of the parent: start it
    from a thread that stays. Elsewhere the child may outlive its parent.
    """
    return [sys.executable, "-I", "-S", "-c", _FOLLOW_PARENT, str(os.getpid()), *argv]
