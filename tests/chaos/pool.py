"""A pool to do harm to: a Redis server of its own behind a proxy that fails on demand, workers, and load."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from producer import Producer
from producer.errors import Unavailable
from producer.job import ReadOptions
from producer.plan import plan_workers
from producer.processes import PYTHON
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
FAULTY_WORKER = Path(__file__).parents[1] / "faulty_worker.py"


class Pool:
    """See the module. `settings` are those of workers and producers, who reach the server through `proxy`."""

    def __init__(self, folder: Path, seed: int, server: Server | Watched | None = None, **settings: object) -> None:
        self.random = random.Random(seed)
        self.server = server or Server(folder)
        self.proxy = Proxy(self.server.port)
        address = {"redis_url": f"redis://127.0.0.1:{self.proxy.port}/0", "data_dir": folder, "predictor": "fake"}
        # As from the environment, so that a wrong one is told.
        self.settings = Settings.model_validate({"namespace": "chaos", "device": "cpu", **address, **QUICK, **settings})
        #: Past the proxy, for the oracle.
        self.client = self.server.client
        self.witness = Witness(self.server, self.settings.namespace)
        self.producer = Producer(self.settings)
        self.submitted: dict[str, int] = {}
        self.withheld = 0
        self._crews: list[tuple[Workers, threading.Event, threading.Thread]] = []

    def start_workers(self, number: int, *faulty: str) -> Workers:
        """Workers whose launcher starts them again; `faulty` are the arguments of `tests/faulty_worker.py`."""
        cpus = [frozenset({cpu}) for cpu in range(number)]
        plans = plan_workers(self.settings.model_copy(update={"rasterise_processes": 1}), cpus, workers=number)
        command = [*PYTHON, str(FAULTY_WORKER), *faulty] if faulty else [*PYTHON, "-m", "worker"]
        workers = Workers(self.settings, plans, log_dir=self.settings.data_dir / "logs", command=command)
        stop, there = threading.Event(), len(self.producer.workers())
        thread = threading.Thread(target=workers.run, args=(stop,), name="launcher")
        thread.start()
        self._crews.append((workers, stop, thread))
        until(lambda: len(self.producer.workers()) == there + number, 60)
        return workers

    def submit(self, pages: int | None = None, *, black: int = 0, **options: object) -> str:
        """Hand in a document, as patiently as a client does. A black page is what faulty workers wait for."""
        pages = pages or self.random.randint(1, 12)
        document = white_pages(pages) if not black else with_a_black_page(pages, black)
        for _ in range(RETRIES):
            try:
                job = self.producer.submit(document, ReadOptions.model_validate(options))
            except Unavailable:
                self.withheld += 1
                time.sleep(RETRY_S)
                continue
            self.submitted[job.id] = pages
            return job.id
        raise AssertionError("no submission succeeded")

    @contextmanager
    def load(self, pause_s: float = 0.05) -> Iterator[None]:
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
        done = self._pages_read()
        until(lambda: self._pages_read() > done, timeout_s)

    def refuses(self, timeout_s: float = 30) -> None:
        """Wait until a submission more than now is refused."""
        withheld = self.withheld
        until(lambda: self.withheld > withheld, timeout_s)

    def is_whole(self, workers: int = 2) -> None:
        """Wait until so many workers are ready."""
        until(lambda: len(self.producer.workers()) == workers, 60)

    def comes_back_without(self, pid: int) -> None:
        """Wait until that worker is gone and another one has taken its place."""
        until(lambda: pid not in self.worker_pids(), 60)
        self.is_whole()

    def _pages_read(self) -> int:
        return int(self.client.hget("chaos:totals", "pages_succeeded") or 0)

    def members(self, key: str) -> list[str]:
        """The members of one of the ledger's sorted sets."""
        return [
            str(member, "utf-8") for member in self.client.zrange(f"chaos:{key}", 0, -1) if isinstance(member, bytes)
        ]

    def worker_pids(self) -> list[int]:
        return [process.popen.pid for workers, _, _ in self._crews for process in workers.processes]

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
        self._crews.clear()

    def close(self) -> None:
        self.stop_workers()
        self.witness.close()
        self.producer.close()
        self.proxy.close()
        self.server.close()


@cache
def white_pages(number: int) -> bytes:
    return tiff([f"page {page}" for page in range(1, number + 1)])


def with_a_black_page(number: int, black: int) -> bytes:
    return tiff([f"page {page}" for page in range(1, number + 1)], black=black)


def until(holds: Callable[[], object], timeout_s: float) -> None:
    """Wait for what must come; AssertionError if it does not."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"not within {timeout_s:g} s"
        time.sleep(0.02)
