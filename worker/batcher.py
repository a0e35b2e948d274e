"""Items -> batch -> futures. Knows neither Redis nor a GPU.

    submit(item) -> future        any thread; blocks while the queue is full
      backlog                     one bounded queue, items grouped by bucket (one fixed tensor shape each)
      runner threads              each takes the next batch that may leave, and owns what it runs it on
    future.result()               the item's own answer or its own error

The window of a batch opens at its first item. It leaves when it is full, when its oldest item has waited `max_delay_s`,
or at once when nothing upstream can still join it: no waiting when alone, full batches under load.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic

import structlog

from producer.errors import EngineOutOfMemory, Internal, Unavailable
from worker.backlog import Backlog, Bucket, Entry, In, Out

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What one batch was, for metrics."""

    name: str
    bucket: Hashable
    size: int
    #: The size that would have been a full batch.
    max_size: int
    #: How long its oldest item waited in the queue.
    waited_s: float
    #: How long the runner took, retries in halves included.
    run_s: float


BatchObserver = Callable[[BatchRecord], None]


class Batcher(Generic[Bucket, In, Out]):
    """Gathers items of many callers into batches of one bucket each.

    Args:
        name: Names the batcher in records, threads and errors.
        runners: One thread is started for each; a runner is only ever called by its own thread. It gets a bucket and
            items of that bucket and returns one answer per item, in order.
        max_batch: The size of a full batch of a bucket.
        max_delay_s: Longest wait of a batch's oldest item for company.
        capacity: Items that may wait; `submit` blocks beyond it.
        upstream: How many things may still submit an item. Call `notify` when it falls. Called with the batcher's lock
            held: it must be quick, and `notify` must not be called with a lock held that it takes.
        prepare: For each runner, what its own thread does before it takes its first batch.
        clock: Seconds that only grow. Deadlines are on this clock.
        observer: Gets a record of each batch, in the runner's thread.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Callable[[Bucket, list[In]], Sequence[Out]]],
        *,
        max_batch: Callable[[Bucket], int],
        max_delay_s: float,
        capacity: int,
        upstream: Callable[[], int] = lambda: 0,
        prepare: Sequence[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
        observer: BatchObserver | None = None,
    ) -> None:
        if not runners or capacity < 1:
            raise ValueError("a batcher needs a runner and room for an item")
        self.name = name
        self._upstream = upstream
        self._clock = clock
        self._observer = observer
        self._capacity = capacity
        self._max_batch = max_batch
        self._backlog: Backlog[Bucket, In, Out] = Backlog(max_batch, max_delay_s)
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._refusal: Callable[[], Exception] | None = None
        self._started = False
        self._alive = len(runners)
        #: When each busy runner was handed what it runs now.
        self._running: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._serve, args=(number, runner), name=f"{name}-{number}", daemon=True)
            for number, runner in enumerate(runners)
        ]
        self._preparing = [(one, Future[None]()) for one in prepare or [lambda: None] * len(runners)]

    def start(self) -> None:
        """Start the runner threads, one after the other, each once the one before it is prepared.

        Raises:
            Exception: what a runner's preparation raised.
        """
        self._started = True
        for thread, (_, prepared) in zip(self._threads, self._preparing, strict=True):
            thread.start()
            prepared.result()

    def stop(self) -> None:
        """Refuse new items and let the queued ones run without waiting for company. Returns at once."""
        self._close(partial(Unavailable, f"The {self.name} stage is stopping."))
        if not self._started:
            self._abandon()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the queued items are resolved and the threads have ended; False when that takes too long."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads if self._started else ():
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def submit(
        self,
        item: In,
        *,
        bucket: Bucket,
        deadline: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Future[Out]:
        """Queue one item; blocks while the queue is full, until `deadline` at most.

        The future always resolves: with the item's answer, the error that its runner raised for it alone,
        `EngineOutOfMemory`, `DeadlineExceeded`, `Cancelled` (when `cancelled()` is true before its batch leaves),
        `Unavailable` (the batcher is stopping) or `Internal` (a runner ended or broke its contract).
        """
        entry: Entry[Bucket, In, Out] = Entry(item, bucket, self._clock(), deadline, cancelled, Future())
        refusal = self._enqueue(entry)
        if refusal is not None:
            entry.fail(refusal)
        return entry.future

    def notify(self) -> None:
        """Look again whether a batch may leave: `upstream` fell, or a flag or the clock changed."""
        with self._work:
            self._work.notify_all()
            self._room.notify_all()

    @property
    def queued(self) -> int:
        """How many items wait for their batch."""
        return self._backlog.size

    @property
    def runners_alive(self) -> int:
        """How many runner threads have not ended."""
        return self._alive

    @property
    def last_progress(self) -> float:
        """Since when the slowest busy runner has been in one call; now when none is. A watchdog compares it to the
        clock: a difference of many batches' time is a hung device."""
        with self._work:
            return min(self._running.values(), default=self._clock())

    def _enqueue(self, entry: Entry[Bucket, In, Out]) -> Exception | None:
        with self._room:
            while self._refusal is None and self._backlog.size >= self._capacity:
                if refusal := entry.refusal(self._clock()):
                    return refusal
                self._room.wait(None if entry.deadline is None else max(0.0, entry.deadline - self._clock()))
            if self._refusal is not None:
                return self._refusal()
            # The window opens when the item is in the queue, not when its caller began to wait for room.
            entry.submitted_at = self._clock()
            self._backlog.add(entry)
            self._work.notify()
            return None

    def _close(self, refusal: Callable[[], Exception]) -> None:
        with self._work:
            self._refusal = self._refusal or refusal
        self.notify()

    def _abandon(self) -> None:
        with self._work:
            entries = self._backlog.take_all()
        for entry in entries:
            entry.fail(Internal(f"The {self.name} stage has no runner left."))

    def _serve(self, number: int, runner: Callable[[Bucket, list[In]], Sequence[Out]]) -> None:
        batch: list[Entry[Bucket, In, Out]] = []
        prepare, prepared = self._preparing[number]
        try:
            prepare()
        except BaseException as error:
            prepared.set_exception(error)
            return
        prepared.set_result(None)
        try:
            while batch := self._next_batch():
                self._run(number, runner, batch)
                batch.clear()  # an idle runner keeps no pages alive
        except BaseException as error:
            for entry in batch:
                entry.fail(Internal(f"The {self.name} stage failed: {type(error).__name__}."))
            log.exception("runner ended", batcher=self.name, runner=number)
        finally:
            with self._work:
                self._alive -= 1
                last = self._alive == 0
            if last:
                self._close(partial(Internal, f"The {self.name} stage has no runner left."))
                self._abandon()

    def _next_batch(self) -> list[Entry[Bucket, In, Out]]:
        """The next batch that may leave; empty once the batcher is stopped and drained."""
        with self._work:
            while True:
                now = self._clock()
                bucket = self._backlog.ready(now, hurry=self._hurry())
                if bucket is not None:
                    batch = self._backlog.take(bucket)
                    self._room.notify(len(batch))
                    if self._backlog.size:
                        self._work.notify()
                    return batch
                if self._refusal is not None:
                    return []
                self._work.wait(self._backlog.due_s(now))

    def _hurry(self) -> bool:
        """Whether waiting cannot make a batch larger."""
        queued = self._backlog.size
        return queued > 0 and (self._refusal is not None or queued >= self._capacity or self._upstream() <= 0)

    def _run(
        self,
        number: int,
        runner: Callable[[Bucket, list[In]], Sequence[Out]],
        batch: list[Entry[Bucket, In, Out]],
    ) -> None:
        started = self._clock()
        entries = [entry for entry in batch if entry.admit(started)]
        if not entries:
            return
        parts = [entries]
        while parts:
            part = parts.pop()
            try:
                answers = self._call(number, runner, part)
            except Exception as error:
                if isinstance(error, MemoryError):
                    self._shrink(part)
                if len(part) == 1:
                    part[0].fail(self._lone_error(error))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            else:
                self._succeed(part, answers, whole=len(part) == len(entries))
        self._observe(entries, started)

    def _call(
        self,
        number: int,
        runner: Callable[[Bucket, list[In]], Sequence[Out]],
        part: list[Entry[Bucket, In, Out]],
    ) -> Sequence[Out]:
        with self._work:
            self._running[number] = self._clock()
        try:
            answers = runner(part[0].bucket, [entry.item for entry in part])
        finally:
            with self._work:
                del self._running[number]
        if len(answers) != len(part):
            raise Internal(f"The {self.name} stage gave {len(answers)} answers to {len(part)} items.")
        return answers

    def _succeed(self, part: list[Entry[Bucket, In, Out]], answers: Sequence[Out], *, whole: bool) -> None:
        if whole:
            with self._work:
                self._backlog.recover(part[0].bucket)
        for entry, answer in zip(part, answers, strict=True):
            entry.future.set_result(answer)

    def _shrink(self, part: list[Entry[Bucket, In, Out]]) -> None:
        with self._work:
            self._backlog.shrink(part[0].bucket, len(part))
        log.warning("out of memory", batcher=self.name, bucket=part[0].bucket, size=len(part))

    @staticmethod
    def _lone_error(error: Exception) -> Exception:
        if not isinstance(error, MemoryError):
            return error
        out_of_memory = EngineOutOfMemory()
        out_of_memory.__cause__ = error
        return out_of_memory

    def _observe(self, entries: list[Entry[Bucket, In, Out]], started: float) -> None:
        if self._observer is None:
            return
        bucket, oldest = entries[0].bucket, entries[0].submitted_at
        record = BatchRecord(
            self.name, bucket, len(entries), self._max_batch(bucket), started - oldest, self._clock() - started
        )
        try:
            self._observer(record)
        except Exception:
            log.exception("observer failed", batcher=self.name)
