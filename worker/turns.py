"""Threads for pages, shared fairly: jobs take turns, so that one page never waits behind a long document's hundred, and
jobs of the interactive lane come before the others, with a thread of their own that no bulk page takes."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from producer.job import Lane

Params = ParamSpec("Params")
Returned = TypeVar("Returned")
Call = Callable[[], None]

#: Of this many turns, one is given to a job of another lane while interactive ones keep coming.
BULK_SHARE = 8


class _Ring:
    """The waiting calls of one lane's jobs, whose jobs take turns."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, deque[Call]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job_id: str, call: Call) -> None:
        self._jobs.setdefault(job_id, deque()).append(call)

    def take(self) -> Call:
        job_id, calls = self._jobs.popitem(last=False)
        call = calls.popleft()
        if calls:
            self._jobs[job_id] = calls  # Behind the others.
        return call


class Turns:
    """A pool of threads that takes the next call of each job in turn. Calls of one job start in order.

    `for_interactive` threads more are the interactive lane's alone.
    """

    def __init__(self, threads: int, *, for_interactive: int = 1) -> None:
        self._interactive = _Ring()
        self._bulk = _Ring()
        #: Turns that bulk has given up to the interactive lane since its last one.
        self._given_up = 0
        lock = threading.Lock()
        #: For most threads, and for those of the interactive lane: a bulk call must not wake one that leaves it alone.
        self._changed, self._interactive_came = threading.Condition(lock), threading.Condition(lock)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, args=(n >= threads,), name=f"page-{n}", daemon=True)
            for n in range(threads + for_interactive)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(
        self, job_id: str, lane: Lane, call: Callable[Params, Returned], *args: Params.args, **kwargs: Params.kwargs
    ) -> Future[Returned]:
        """Queue a call of the job, all of whose calls are in one lane. How many wait is bounded by the spans that a
        worker holds."""
        future: Future[Returned] = Future()

        def run() -> None:
            try:
                future.set_result(call(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._stopping:
                raise RuntimeError("the page threads are stopping")
            if lane is Lane.INTERACTIVE:
                self._interactive.add(job_id, run)
                self._interactive_came.notify()
            else:
                self._bulk.add(job_id, run)
            self._changed.notify()
        return future

    def stop(self) -> None:
        """Let the queued calls run, and end the threads. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._interactive_came.notify_all()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, interactive_alone: bool) -> None:
        while call := self._next(interactive_alone):
            call()

    def _next(self, interactive_alone: bool) -> Call | None:
        with self._changed:
            while not (self._interactive or (self._bulk and not interactive_alone)):
                if self._stopping:
                    return None
                (self._interactive_came if interactive_alone else self._changed).wait()
            if interactive_alone:
                return self._interactive.take()
            if self._bulk and (not self._interactive or self._given_up >= BULK_SHARE - 1):
                self._given_up = 0
                return self._bulk.take()
            self._given_up += bool(self._bulk)
            return self._interactive.take()
