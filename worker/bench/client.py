"""A user of the pool: hands in documents and fetches their results, many at a time over one subscription."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from producer import Producer
from producer.errors import Unavailable
from producer.job import JobState
from worker.bench.readers import Reader

#: How often jobs are asked for by name: an event may be lost with its connection.
REREAD_S = 2.0


class Client(Reader):
    """`producer.Producer`, with one listener for all of its jobs. A failed page is an error: it was not read."""

    width = 1024

    def __init__(self) -> None:
        self._producer = Producer()
        self._ended: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._pubsub = self._producer.ledger.redis.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(f"{self._producer.ledger.namespace}:events")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="events", daemon=True)
        self._thread.start()

    def read(self, path: str) -> str:
        job = self._producer.submit(Path(path))
        ended = self._future(job.id)
        ended.result()
        with self._lock:
            del self._ended[job.id]
        result = job.result()
        if result.state is not JobState.SUCCEEDED:
            raise Unavailable(f"{path} was not read: {result.error or result.state.value}")
        return result.text

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._pubsub.close()
        self._producer.close()

    def _future(self, job_id: str) -> Future[None]:
        """Of the job's end. An event may come before `submit` has returned, so either side makes it."""
        with self._lock:
            return self._ended.setdefault(job_id, Future())

    def _listen(self) -> None:
        reread_at = time.monotonic() + REREAD_S
        while not self._closing.is_set():
            message = self._pubsub.get_message(timeout=0.5)
            if message is not None:
                event = json.loads(message["data"])
                if JobState(event["state"]).final:
                    self._end(event["job_id"])
            if time.monotonic() > reread_at:
                self._reread()
                reread_at = time.monotonic() + REREAD_S

    def _reread(self) -> None:
        with self._lock:
            open_jobs = [job_id for job_id, ended in self._ended.items() if not ended.done()]
        for job_id in open_jobs:
            if self._producer.status(job_id).final:
                self._end(job_id)

    def _end(self, job_id: str) -> None:
        ended = self._future(job_id)
        if not ended.done():
            ended.set_result(None)
