"""The parts of a pool as processes of their own, which end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from producer.errors import Unavailable

PYTHON = (sys.executable, "-P")  # Nothing is imported from the folder that a user stands in.

_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1
# Loaded here, because between fork and exec a child should do as little as it can.
_LIBC = ctypes.CDLL(None)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def ended_by(returncode: int) -> str:
    """`status 1`, or the name of the signal that ended the process."""
    named = {number.value: number.name for number in signal.Signals}
    return f"status {returncode}" if returncode >= 0 else named.get(-returncode, f"signal {-returncode}")


def asked_to_stop() -> threading.Event:
    """An event that SIGTERM and SIGINT set from now on; a second Ctrl-C raises KeyboardInterrupt.

    With it, a signal never falls between the start of a process and the note that it was started.
    """
    asked = threading.Event()

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked


def _settle_in(parent: int, death_signal: signal.Signals, cpus: Collection[int]) -> None:
    """Runs in the child: it gets the signal when its parent dies, however it dies, and keeps to its CPUs."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # It died before the signal was asked for, which will not come any more.
            os._exit(1)
        if cpus:
            with suppress(OSError):  # They may have gone offline; the process does without its place.
                os.sched_setaffinity(0, cpus)


class Process:
    """One part of the pool. Its output goes to a log file, in whose folder it runs unless `cwd` says another one;
    without a file, it goes where this process's own goes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path | None,
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
        cpus: Collection[int] = (),
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log_path = log_path
        # The user's folder may hold modules of the names that a part imports.
        folder = cwd or (log_path.parent if log_path else None)
        for needed in filter(None, (folder, log_path and log_path.parent)):
            needed.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") if log_path else nullcontext() as log:
            self._log_start = log.tell() if log else 0
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log and subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=folder,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops its parts in order.
                preexec_fn=partial(_settle_in, os.getpid(), death_signal, cpus),  # noqa: PLW1509 - two calls into what is loaded already
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()` holds.

        Raises:
            Unavailable: the process ended, or was not ready in time; the end of its log is in the message.
        """
        end = time.monotonic() + timeout_s
        while not ready():
            if self.popen.poll() is not None:
                raise Unavailable(f"The {self.name} ended ({ended_by(self.popen.returncode)}):\n{self.log_tail()}")
            if time.monotonic() > end:
                raise Unavailable(f"The {self.name} was not ready within {timeout_s:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def log(self) -> str:
        """What this process has written to its log file; nothing where it has none."""
        if self.log_path is None:
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = 12) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s` seconds."""
        self.ask_to_stop()
        self.await_end(grace_s)

    def ask_to_stop(self) -> None:
        self.popen.terminate()

    def await_end(self, grace_s: float) -> None:
        """Wait for the end, and bring it about with SIGKILL after `grace_s` seconds."""
        try:
            self.popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
