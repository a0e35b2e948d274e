"""A pool to do harm to: a Redis server of its own behind a proxy that fails on demand, workers, and load."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from producer import Producer
from producer.errors import Unavailable
from producer.job import ReadOptions
from producer.ledger import Ledger
from producer.plan import plan_workers
from producer.processes import PYTHON, Process, ended_by
from producer.settings import Settings
from producer.workers import Workers
from tests.chaos.proxy import Proxy
from tests.chaos.witness import Witness
from tests.documents import tiff
from tests.redis_server import Server, Watched

#: Found and read again within a few seconds. The 20 s of the default leases have a test of their own.
QUICK = {"lease_s": 3.0, "lease_renew_s": 0.5, "sweep_interval_s": 0.5, "unclaimed_after_s": 2.0}
#: What clients do with a refusal: try again.
RETRIES, RETRY_S = 120, 0.25
ROW = "chaos"


class Crew(Workers):
    """Workers of which every process is kept that there was."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.all: dict[int, Process] = {}

    def tend(self) -> None:
        self._keep()
        super().tend()

    def stop(self) -> None:
        self._keep()
        super().stop()

    def _keep(self) -> None:
        self.all |= {process.popen.pid: process for process in self.processes}


class Pool:
    """See the module. `settings` are those of workers and producers, who reach the server through `proxy`."""

    def __init__(self, folder: Path, seed: int, server: Server | Watched | None = None, **settings: object) -> None:
        self.random = random.Random(seed)
        self.server = server or Server(folder)
        self.proxy = Proxy(self.server.port)
        address = {
            "redis_url": f"redis://127.0.0.1:{self.proxy.port}/0",
            "data_dir": folder,
            "predictor": "fake",
            "cache_ttl_s": 0.0,
        }
        # As from the environment, so that a wrong one is told.
        self.settings = Settings.model_validate({"namespace": "chaos", "device": "cpu", **address, **QUICK, **settings})
        #: Past the proxy, for the oracle.
        self.client = self.server.client
        self.ledger = Ledger(self.settings, self.client)
        self.witness = Witness(self.server, self.settings.namespace)
        self.producer = Producer(self.settings)
        #: What `submit` asks for.
        self.options = ReadOptions()
        self.submitted: dict[str, int] = {}
        #: What is told of the test beside its outcome: where the oracle puts its rows, under `ROW`.
        self.rows: list[tuple[str, object]] = []
        self.withheld = 0
        self._seats = 0
        self._killed: set[int] = set()
        self._crews: list[tuple[Crew, threading.Event, threading.Thread]] = []

    def start_workers(self, number: int, *script: str) -> None:
        """Workers whose launcher starts them again; with a `script` and its arguments, those that it makes of them."""
        cpus = [frozenset({cpu}) for cpu in range(number)]
        plans = plan_workers(self.settings.model_copy(update={"rasterise_processes": 1}), cpus, workers=number)
        command = [*PYTHON, *(script or ("-m", "worker"))]
        workers = Crew(self.settings, plans, log_dir=self.settings.data_dir / "logs", command=command)
        stop = threading.Event()
        thread = threading.Thread(target=workers.run, args=(stop,), name="launcher")
        thread.start()
        self._crews.append((workers, stop, thread))
        self._seats += number
        self.is_whole()

    def submit(self, pages: int | None = None, *, black: int = 0, huge: int = 0) -> str:
        """Hand in a document, as patiently as a client does. A black page is what faulty workers wait for, a huge
        one is too much for a decoder."""
        pages = pages or self.random.randint(1, 12)
        for _ in range(RETRIES):
            try:
                job = self.producer.submit(document(pages, black, huge), self.options)
            except Unavailable:
                self.withheld += 1
                time.sleep(RETRY_S)
                continue
            self.submitted[job.id] = pages
            return job.id
        raise AssertionError("no submission succeeded")

    @contextmanager
    def load(self, pause_s: float = 0.2) -> Iterator[None]:
        """Documents that keep coming, from a thread of their own, for as long as the context lasts."""
        stop, errors = threading.Event(), []

        def keep_coming() -> None:
            try:
                while not stop.wait(pause_s):
                    self.submit()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=keep_coming, name="load")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if errors:
                raise errors[0]

    def goes_on(self, timeout_s: float = 60) -> None:
        """Wait until a page more than now is read."""
        done = self.pages_read()
        until(lambda: self.pages_read() > done, timeout_s)

    def ends(self, job_id: str, timeout_s: float = 60) -> None:
        """Wait until that job is final."""
        until(lambda: self.ledger.status(job_id).final, timeout_s)

    def refuses(self, timeout_s: float = 30) -> None:
        """Wait until a submission more than now is refused."""
        withheld = self.withheld
        until(lambda: self.withheld > withheld, timeout_s)

    def is_whole(self) -> None:
        """Wait until every worker is ready, and none is taken for ready that has ended."""
        until(lambda: len(self.worker_pids()) == self._seats and self._ready_pids() == set(self.worker_pids()), 60)

    def _ready_pids(self) -> set[int]:
        return {worker["pid"] for worker in self.ledger.workers().values()}

    def freeze_a_worker(self, pause_s: float) -> float:
        """Stop a worker under load for longer than its leases, and let it go on once others have read everything.
        Returns how long it took until then."""
        with self.load(pause_s):
            time.sleep(0.5)
            frozen = self.random.choice(self.worker_pids())
            os.kill(frozen, signal.SIGSTOP)
            started = time.monotonic()
            time.sleep(self.settings.lease_s + 1)
        self.finish(60)
        seconds = time.monotonic() - started
        os.kill(frozen, signal.SIGCONT)
        self.is_whole()
        return seconds

    def comes_back_without(self, pid: int) -> None:
        """Wait until that worker is gone and another one has taken its place."""
        until(lambda: pid not in self.worker_pids(), 60)
        self.is_whole()

    def pages_read(self) -> int:
        return int(self.client.hget("chaos:totals", "pages_succeeded") or 0)

    def members(self, key: str) -> list[str]:
        """The members of one of the ledger's sorted sets."""
        return [
            str(member, "utf-8") for member in self.client.zrange(f"chaos:{key}", 0, -1) if isinstance(member, bytes)
        ]

    def worker_pids(self) -> list[int]:
        """The workers that run now."""
        found = [process for workers, _, _ in self._crews for process in workers.processes]
        return [process.popen.pid for process in found if process.popen.poll() is None]

    @property
    def processes(self) -> dict[int, Process]:
        """Every worker that there was."""
        return {pid: process for workers, _, _ in self._crews for pid, process in workers.all.items()}

    @property
    def ended(self) -> dict[int, str]:
        """How those workers ended that were not killed here, and did not drain to status 0 either."""
        codes = {pid: process.popen.returncode for pid, process in self.processes.items() if pid not in self._killed}
        return {pid: ended_by(code) for pid, code in codes.items() if code}

    def kill(self, pid: int) -> float:
        """Kill a worker; returns the seconds until others have all that was held then, 20 at most. What two workers
        have died with is let pass first: a third death would be taken for its fault."""
        until(lambda: not self.members("waiting:quarantine") and not self.client.exists("chaos:quarantined"), 60)
        held, started = self.holders(), time.monotonic()
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        self.changes_hands(held, 20)
        return time.monotonic() - started

    def holders(self) -> dict[str, object]:
        """The fence of each unit that is leased now."""
        return {member: self._fence(member) for member in self.members("leases")}

    def _fence(self, member: str) -> object:
        job_id, unit = member.split()
        return self.client.hget(f"chaos:spans:{job_id}", f"{unit}:fence")

    def changes_hands(self, held: Mapping[str, object], timeout_s: float) -> None:
        """Wait until others have, or have done, all that was `held`."""
        until(lambda: not held.items() & self.holders().items(), timeout_s)

    def finish(self, timeout_s: float) -> float:
        """Wait until every job is final; returns how long that took."""
        started = time.monotonic()
        until(lambda: not self.client.zcard("chaos:active"), timeout_s)
        return time.monotonic() - started

    def stop_workers(self) -> None:
        for _, stop, _ in self._crews:
            stop.set()
        for _, _, thread in self._crews:
            thread.join()
        self._seats = 0

    def close(self) -> None:
        self.stop_workers()
        self.witness.close()
        self.producer.close()
        self.proxy.close()
        self.server.close()


#: Makes the test's pool: its server, if it has one of its own, and settings.
MakePool = Callable[..., Pool]


@cache
def document(pages: int, black: int, huge: int) -> bytes:
    return tiff([f"page {page}" for page in range(1, pages + 1)], black=black, huge=huge)


def until(holds: Callable[[], object], timeout_s: float) -> None:
    """Wait for what must come; AssertionError if it does not."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"not within {timeout_s:g} s"
        time.sleep(0.02)
