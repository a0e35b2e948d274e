"""The parts of a pool as processes of their own, which end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from producer.errors import Unavailable

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


def _die_with_parent(death_signal: signal.Signals) -> None:
    """Runs in the child: it gets the signal when its parent dies, however it dies."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal)


class Process:
    """One part of the pool, with its output in a log file. It runs in the log's folder."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        env: Mapping[str, str] | None = None,
        *,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=log_path.parent,  # The user's folder may hold modules of the names that a part imports.
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops its parts in order.
                preexec_fn=partial(_die_with_parent, death_signal),  # noqa: PLW1509 - one call into a library that is loaded already
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()` holds.

        Raises:
            Unavailable: the process ended, or was not ready in time; the end of its log is in the message.
        """
        end = time.monotonic() + timeout_s
        while not ready():
            if self.popen.poll() is not None:
                raise Unavailable(f"The {self.name} ended with status {self.popen.returncode}:\n{self.log_tail()}")
            if time.monotonic() > end:
                raise Unavailable(f"The {self.name} was not ready within {timeout_s:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def log(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = 12) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    @property
    def kind(self) -> str:
        """`worker` for `worker-2`."""
        return self.name.partition("-")[0]

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
