"""Mixed documents from a backend and from a client of the gateway: some bad, some cancelled, on both lanes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx

from producer import Producer
from producer.errors import Unavailable
from producer.job import Lane, ReadOptions
from tests.chaos.pool import RETRIES, RETRY_S, Pool, document
from tests.documents import png

Returned = TypeVar("Returned")

#: The shares of documents that are cut off, of those with one page, and of jobs that are cancelled.
BAD, SINGLE, CANCELLED = 0.05, 0.4, 0.1
PAUSE_S = 0.1
#: Jobs that nobody can read go by this name.
BAD_NAME = "cut off"


@dataclass(frozen=True)
class Document:
    data: bytes
    #: 0 where they cannot be counted.
    pages: int
    options: ReadOptions

    @property
    def name(self) -> str:
        return "whole" if self.pages else BAD_NAME


class Traffic:
    """Two clients of `pool`, which try again whatever is refused. `url` is the gateway's."""

    def __init__(self, pool: Pool, url: str, seed: int) -> None:
        self.cancelled: set[str] = set()
        self.bad: set[str] = set()
        self._pool = pool
        self._random = random.Random(seed)
        self._http = httpx.Client(base_url=url, timeout=60)
        self._clients: tuple[Backend | GatewayClient, ...] = (Backend(pool.producer), GatewayClient(self._http))

    @contextmanager
    def flows(self) -> Iterator[None]:
        """Documents keep coming from both clients for as long as the context lasts."""
        stop, errors = threading.Event(), []

        def keep_coming(client: Backend | GatewayClient) -> None:
            try:
                while not stop.wait(PAUSE_S):
                    self._one_job(client)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=keep_coming, args=(client,), name="traffic") for client in self._clients]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]

    def close(self) -> None:
        self._http.close()

    def _one_job(self, client: Backend | GatewayClient) -> None:
        document = self._document()
        job_id = self._patiently(lambda: client.submit(document))
        if not document.pages:
            self.bad.add(job_id)
            return
        self._pool.submitted[job_id] = document.pages
        if self._random.random() < CANCELLED:
            self.cancelled.add(job_id)  # Before the ledger can hear of it: its answer may be lost.
            self._patiently(lambda: client.cancel(job_id))

    def _document(self) -> Document:
        options = ReadOptions(lane=self._random.choice((Lane.INTERACTIVE, Lane.BULK)))
        kind = self._random.random()
        if kind < BAD:
            return Document(document(3, 0, 0)[:200], 0, options)
        if kind < BAD + SINGLE:
            return Document(png("one page"), 1, options)
        pages = self._random.randint(2, 12)
        return Document(document(pages, 0, 0), pages, options)

    def _patiently(self, action: Callable[[], Returned]) -> Returned:
        for _ in range(RETRIES):
            try:
                return action()
            except Unavailable:
                self._pool.withheld += 1
                time.sleep(RETRY_S)
        raise AssertionError("refused again and again")


class Backend:
    """A service that imports the producer."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def submit(self, document: Document) -> str:
        return self._producer.submit(document.data, document.options, name=document.name).id

    def cancel(self, job_id: str) -> None:
        self._producer.cancel(job_id)


class GatewayClient:
    """A client of the gateway, which has a look at each job that it handed in."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def submit(self, document: Document) -> str:
        form = {"lane": document.options.lane.value, "name": document.name}
        answer = _unless_refused(self._http.post("/v1/jobs", files={"file": document.data}, data=form))
        job_id = str(answer.json()["id"])
        self._http.get(f"/v1/jobs/{job_id}", params={"wait": 0.2})
        return job_id

    def cancel(self, job_id: str) -> None:
        _unless_refused(self._http.delete(f"/v1/jobs/{job_id}"))


def _unless_refused(answer: httpx.Response) -> httpx.Response:
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise Unavailable(answer.text)
    return answer.raise_for_status()
