"""What a child process that parses hostile bytes takes from itself: time, memory, files, and a life of its own.

`sandbox` takes the rest.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys

#: linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

#: The socket, one document, what is made of it, and a few for the libraries.
MAX_OPEN_FILES = 32


def die_with_parent(parent: int) -> None:
    """End with the thread that started this process, and with nothing before it; gain no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)
    # Whoever ends the whole group or unit of the parent: it finishes its pages first, and this process goes with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def limit_resources(memory_bytes: int, file_bytes: int = 0) -> None:
    """Let the process take `memory_bytes` more than now, and write no file beyond `file_bytes`."""
    with open("/proc/self/statm", "rb") as file:
        address_space = int(file.read().split()[0]) * resource.getpagesize()
    # When the machine runs out of memory, the kernel takes this process rather than its parent.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    for name, limit in (
        (resource.RLIMIT_AS, address_space + memory_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        lowered = _at_most(limit, resource.getrlimit(name)[1])
        resource.setrlimit(name, (lowered, lowered))


def allow_cpu_seconds(seconds: float) -> None:
    """Let the process use `seconds` more; the parent ends it sooner if it only waits."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(math.ceil(used + seconds) + 1, hard), hard))


def _at_most(limit: int, hard: int) -> int:
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)
