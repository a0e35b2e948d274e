"""Threads for pages, shared fairly: jobs take turns, so that one page never waits behind a long document's hundred."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

Params = ParamSpec("Params")
Returned = TypeVar("Returned")
Call = Callable[[], None]


class Turns:
    """A pool of threads that takes the next call of each job in turn. Calls of one job start in order."""

    def __init__(self, threads: int) -> None:
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._serve, name=f"page-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(
        self, job_id: str, call: Callable[Params, Returned], *args: Params.args, **kwargs: Params.kwargs
    ) -> Future[Returned]:
        """Queue a call of the job. Its length is bounded by the spans that a worker holds."""
        future: Future[Returned] = Future()

        def run() -> None:
            try:
                future.set_result(call(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._stopping:
                raise RuntimeError("the page threads are stopping")
            self._waiting.setdefault(job_id, deque()).append(run)
            self._changed.notify()
        return future

    def stop(self) -> None:
        """Let the queued calls run, and end the threads. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while call := self._next():
            call()

    def _next(self) -> Call | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            job_id, calls = self._waiting.popitem(last=False)
            call = calls.popleft()
            if calls:
                self._waiting[job_id] = calls  # Behind the others.
            return call
