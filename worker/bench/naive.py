"""A Celery task for each image, as one writes it first: prefork workers, a model in each, results through Redis."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from celery import Celery, signals

from producer.embedded import answers, redis_command
from producer.errors import Unavailable
from producer.processes import Process, free_port
from worker.bench.peers import rapidocr, rapidocr_text, runtime
from worker.bench.readers import Reader

#: Tells the worker's processes where their broker is.
URL_VARIABLE = "NAIVE_REDIS_URL"
POLL_S = 0.01
READY_S = 180.0

app = Celery(
    "naive",
    broker=os.environ.get(URL_VARIABLE),
    backend=os.environ.get(URL_VARIABLE),
    set_as_current=False,
)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)

_engine: Any = None


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load(**_: Any) -> None:
    global _engine  # noqa: PLW0603 - one model a process, as such workers have it
    _engine = rapidocr(orientation=False)


@app.task(name="naive.read")  # type: ignore[untyped-decorator]
def read(path: str) -> str:
    return rapidocr_text(_engine(path))


class NaiveCelery(Reader):
    """The worker, its Redis, and their user. Orientation is off."""

    width = 1024

    def __init__(self) -> None:
        self.model = runtime()
        cores = len(os.sched_getaffinity(0))
        self._folder = tempfile.TemporaryDirectory(prefix="ocrpool-naive-")
        folder = Path(self._folder.name)
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        app.conf.update(broker_url=url, result_backend=url)
        self._parts = [Process("redis", redis_command(folder, port), folder / "redis.log")]
        self._parts[0].wait_until(lambda: answers(url), timeout_s=30)
        command = [sys.executable, "-P", "-m", "celery", "--app", "worker.bench.naive", "worker"]
        command += ["--pool", "prefork", "--concurrency", str(cores), "--loglevel", "WARNING"]
        self._parts.append(Process("worker", command, folder / "worker.log", {URL_VARIABLE: url}))
        self._waiting: dict[str, Future[str]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="results", daemon=True)
        self._thread.start()
        self._await_worker()

    def read(self, path: str) -> str:
        answer: Future[str] = Future()
        result = read.delay(path)
        self._waiting[result.id] = answer
        return answer.result()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        for part in reversed(self._parts):
            part.stop(grace_s=10)
        self._folder.cleanup()

    def _await_worker(self) -> None:
        end = time.monotonic() + READY_S
        while not app.control.ping(timeout=1):
            if self._parts[1].popen.poll() is not None or time.monotonic() > end:
                raise Unavailable(f"Celery's worker did not start: {self._parts[1].log_tail(1)}")

    def _collect(self) -> None:
        """One MGET for all open tasks: a subscription for each would be slower, not faster."""
        while not self._closing.wait(POLL_S):
            ids = list(self._waiting)
            if not ids:
                continue
            stored = app.backend.client.mget([app.backend.get_key_for_task(one) for one in ids])
            for one, payload in zip(ids, stored, strict=True):
                if payload is None:
                    continue
                answer, meta = self._waiting.pop(one), app.backend.decode_result(payload)
                if meta["status"] == "SUCCESS":
                    answer.set_result(meta["result"])
                else:
                    answer.set_exception(Unavailable(f"task {meta['status']}: {meta['result']}"))
