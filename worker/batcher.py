"""Items -> batch -> futures. Knows neither Redis nor a GPU.

    submit_many(items) -> future  any thread; blocks while the queue is full
      backlog                     one bounded queue, items by bucket (one fixed tensor shape each) and lane
      runner threads              each takes the next batch that may leave, and owns what it runs it on
    future.result()               the items' own answers, or the error of the first that has one

The window of a batch opens at its first item. It leaves when it is full, when its oldest item has waited `max_delay_s`,
at once when nothing upstream can still join it, or when the device would stand idle meanwhile: no waiting when alone,
full batches under load. While what comes after this stage has its hands full, an emptier batch gains its items nothing,
and the window is longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic

import structlog

from producer.errors import EngineOutOfMemory, Internal, Unavailable
from producer.job import Lane
from worker.backlog import Backlog, Batch, Bucket, Entry, In
from worker.device import Device
from worker.groups import Group, Out
from worker.records import BatchRecord

log = structlog.get_logger(__name__)


#: Full batches that wait in the next stage from which on it is busy for longer than a batch of this one takes.
BATCHES_AHEAD = 3

BatchObserver = Callable[[BatchRecord], None]
Runner = Callable[[Bucket, list[In]], Sequence[Out]]


class Batcher(Generic[Bucket, In, Out]):
    """Gathers items of many callers into batches of one bucket each.

    Args:
        name: Names the batcher in records, threads and errors.
        runners: One thread is started for each; a runner is only ever called by its own thread. It gets a bucket and
            items of that bucket and returns one answer per item, in order.
        max_batch: The size of a full batch of a bucket.
        max_delay_s: Longest wait of a batch's oldest item for company.
        capacity: Items that may wait; a submission blocks until fewer do, then enters whole.
        device: Where the batches run: while it has room, a batch leaves before its window closes. None: windows always
            count.
        upstream: How many things may still submit an item. Call `notify` when it falls. Called with the batcher's lock
            held: it must be quick, and `notify` must not be called with a lock held that it takes.
        downstream: How many full batches wait in the stage that gets this one's answers; asked with True, of
            interactive items alone: those wait for no others.
        prepare: For each runner, what its own thread does before it takes its first batch.
        slots: The items that the tensor for so many items of a bucket has room for, for the records.
        clock: Seconds that only grow. Deadlines are on this clock.
        observer: Gets a record of each batch, in the runner's thread, and of items that no batch took.
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner[Bucket, In, Out]],
        *,
        max_batch: Callable[[Bucket], int],
        max_delay_s: float,
        capacity: int,
        device: Device | None = None,
        upstream: Callable[[], int] = lambda: 0,
        downstream: Callable[[bool], int] = lambda urgent: 0,
        prepare: Sequence[Callable[[], None]] = (),
        slots: Callable[[Bucket, int], int] = lambda bucket, items: items,
        clock: Callable[[], float] = time.monotonic,
        observer: BatchObserver | None = None,
    ) -> None:
        if not runners or capacity < 1:
            raise ValueError("a batcher needs a runner and room for an item")
        self.name = name
        self._runners = runners
        self._device = device
        self._upstream = upstream
        self._downstream = downstream
        self._max_delay_s = max_delay_s
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._capacity = capacity
        self._backlog: Backlog[Bucket, In, Out] = Backlog(max_batch, max_delay_s)
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._refusal: Callable[[], Exception] | None = None
        self._started = False
        self._alive = len(runners)
        #: When each busy runner was handed what it runs now.
        self._running: dict[int, float] = {}
        self._busy_since = 0.0
        self._busy_s = 0.0
        if device is not None:
            device.watch(self._freed)
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(len(runners))
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
        for thread in self._threads:
            if thread.ident is None:
                continue  # never started, or one before it could not prepare
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def submit(
        self,
        item: In,
        *,
        bucket: Bucket,
        lane: Lane = Lane.INTERACTIVE,
        deadline: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Future[Out]:
        """Queue one item: `submit_many` with the answer itself in the future."""
        urgent = lane is Lane.INTERACTIVE
        group: Group[Out] = Group(1, urgent=urgent, deadline=deadline, cancelled=cancelled, alone=True)
        return self._submit(group, (item,), (bucket,))

    def submit_many(
        self,
        items: Sequence[In],
        *,
        buckets: Sequence[Bucket],
        lane: Lane = Lane.INTERACTIVE,
        deadline: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Future[list[Out]]:
        """Queue items, each in its own bucket; blocks while the queue is full, until `deadline` at most.

        The future always resolves, once every item has: with the answers in the order of the items, or with the error
        of the first item that has one. That is what its runner raised for it alone, `EngineOutOfMemory`,
        `DeadlineExceeded`, `Cancelled` (when `cancelled()` is true before its batch leaves), `Unavailable` (the batcher
        is stopping) or `Internal` (a runner ended or broke its contract). `future.cancel()` works until the first of
        the items leaves.
        """
        urgent = lane is Lane.INTERACTIVE
        group: Group[Out] = Group(len(items), urgent=urgent, deadline=deadline, cancelled=cancelled)
        if not items:
            group.resolve()
            return group.future
        return self._submit(group, items, buckets)

    def notify(self) -> None:
        """Look again whether a batch may leave: `upstream` fell, or a flag or the clock changed."""
        with self._work:
            if self._refusal is not None:
                self._work.notify_all()
            elif self._may_leave():
                self._work.notify()
            self._room.notify_all()

    @property
    def queued(self) -> int:
        """How many items wait for their batch."""
        return self._backlog.size

    def full_batches(self, urgent: bool) -> int:
        """How many buckets hold a full batch that waits; `urgent`: of interactive items alone."""
        return self._backlog.full_batches(urgent=urgent)

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

    def step(self, number: int = 0) -> bool:
        """Take and run the next batch that may leave, as the runner's thread does; False if none may."""
        with self._work:
            batch = self._take(number)
        if batch is not None:
            self._run(number, batch)
        return batch is not None

    def _submit(self, group: Group[Out], items: Sequence[In], buckets: Sequence[Bucket]) -> Future[Any]:
        refusal = self._enqueue(group, items, buckets)
        if refusal is not None:
            group.refuse(refusal)
            record = BatchRecord(self.name)
            record.drop(refusal, group.size)
            self._observe(record)
        return group.future

    def _enqueue(self, group: Group[Out], items: Sequence[In], buckets: Sequence[Bucket]) -> Exception | None:
        with self._room:
            while self._refusal is None and self._backlog.size >= self._capacity:
                if refusal := group.refusal(self._clock()):
                    return refusal
                self._room.wait(None if group.deadline is None else max(0.0, group.deadline - self._clock()))
            if self._refusal is not None:
                return self._refusal()
            # The window opens when the items are in the queue, not when their caller began to wait for room.
            was_empty = not self._backlog.size
            self._backlog.add(group, items, buckets, self._clock())
            # A runner that sleeps on an empty queue has to learn when the window closes.
            if was_empty or self._may_leave():
                self._work.notify()
            return None

    def _freed(self) -> None:
        """The device has room again."""
        with self._work:
            if self._may_leave():
                self._work.notify()

    def _close(self, refusal: Callable[[], Exception]) -> None:
        with self._work:
            self._refusal = self._refusal or refusal
        self.notify()

    def _abandon(self) -> None:
        with self._work:
            entries = self._backlog.take_all()
        if entries:
            error = Internal(f"The {self.name} stage has no runner left.")
            self._fail([(entry, error) for entry in entries])
            self._observe(BatchRecord(self.name, refused=len(entries)))

    def _serve(self, number: int) -> None:
        prepare, prepared = self._preparing[number]
        try:
            prepare()
        except BaseException as error:
            self._end()
            prepared.set_exception(error)
            return
        prepared.set_result(None)
        try:
            while self._wait():
                self.step(number)
        except BaseException:
            log.exception("runner ended", batcher=self.name, runner=number)
        finally:
            self._end()

    def _end(self) -> None:
        """A runner has ended; with the last one, the queue does."""
        with self._work:
            self._alive -= 1
            last = self._alive == 0
        if last:
            self._close(partial(Internal, f"The {self.name} stage has no runner left."))
            self._abandon()

    def _wait(self) -> bool:
        """Wait until a batch may leave; False once the batcher is stopped and drained."""
        with self._work:
            while not self._may_leave():
                if self._refusal is not None:
                    return False
                self._work.wait(self._backlog.due_s(self._clock(), self._window_s()))
            return True

    def _may_leave(self) -> bool:
        return self.queued > 0 and self._backlog.may_leave(self._clock(), self._window_s())

    def _window_s(self) -> float:
        """How long a batch that is not full waits for company: longer where its items would only wait again in the next
        stage; not at all where waiting cannot make it larger, or would leave the device idle."""
        if self._refusal is not None or self._backlog.size >= self._capacity:
            return 0.0
        if self._downstream(self._backlog.has_urgent) >= BATCHES_AHEAD:
            return self._backlog.starved_s
        idle = self._device is not None and self._device.has_room
        return 0.0 if idle or self._upstream() <= 0 else self._max_delay_s

    def _take(self, number: int) -> Batch[Bucket, In, Out] | None:
        """The next batch that may leave, now the runner's. Called with the lock held."""
        now = self._clock()
        batch = self._backlog.take(now, self._window_s())
        if batch is None:
            return None
        for group in {entry[0] for entry in batch.entries}:
            group.begin()
        if not self._running:
            self._busy_since = now
        self._running[number] = now
        if self._device is not None:
            self._device.begin()
        self._room.notify(len(batch.entries))
        if self._backlog.size:
            self._work.notify()
        return batch

    def _run(self, number: int, batch: Batch[Bucket, In, Out]) -> None:
        record = BatchRecord(self.name, batch.bucket, max_size=batch.max_size)
        started = self._clock()
        try:
            entries = self._admit(batch.entries, record, started)
            if entries:
                self._run_parts(number, batch.bucket, entries, record)
        finally:
            with self._work:
                now = self._clock()
                del self._running[number]
                record.busy_s, self._busy_since = now - self._busy_since, now
            if self._device is not None:
                self._device.end()
            record.run_s = now - started
            self._observe(record)

    def _admit(self, entries: list[Entry[Out, In]], record: BatchRecord, now: float) -> list[Entry[Out, In]]:
        """The entries that may run; the others are resolved."""
        refusals = {group: group.refusal(now) for group in {entry[0] for entry in entries}}
        if any(refusals.values()):
            dropped = [(entry, refusal) for entry in entries if (refusal := refusals[entry[0]])]
            for _, refusal in dropped:
                record.drop(refusal)
            self._fail(dropped)
            entries = [entry for entry in entries if not refusals[entry[0]]]
        if entries:
            record.size = len(entries)
            waits = [now - entry[0].submitted_at for entry in entries]
            record.waited_s, record.mean_wait_s = max(waits), sum(waits) / len(waits)
        return entries

    def _run_parts(self, number: int, bucket: Bucket, entries: list[Entry[Out, In]], record: BatchRecord) -> None:
        """Run the entries, cutting what fails in halves until the guilty item stands alone."""
        parts = [entries]
        try:
            while parts:
                part = parts.pop()
                try:
                    answers = self._call(number, bucket, part, record)
                except Exception as error:
                    if isinstance(error, MemoryError):
                        self._shrink(bucket, len(part), record)
                    if len(part) == 1:
                        record.failed += 1
                        self._fail([(part[0], self._lone_error(error))])
                    else:
                        record.bisections += 1
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
                except BaseException:
                    parts.append(part)
                    raise
                else:
                    self._succeed(bucket, part, answers, whole=len(part) == len(entries))
                    record.slots += self._slots(bucket, len(part))
        except BaseException as error:
            internal = Internal(f"The {self.name} stage failed: {type(error).__name__}.")
            left = [(entry, internal) for part in parts for entry in part]
            record.failed += len(left)
            self._fail(left)
            raise

    def _call(self, number: int, bucket: Bucket, part: list[Entry[Out, In]], record: BatchRecord) -> Sequence[Out]:
        if record.calls:
            with self._work:
                self._running[number] = self._clock()
        record.calls += 1
        answers = self._runners[number](bucket, [item for _, _, item in part])
        if len(answers) != len(part):
            raise Internal(f"The {self.name} stage gave {len(answers)} answers to {len(part)} items.")
        return answers

    def _succeed(self, bucket: Bucket, part: list[Entry[Out, In]], answers: Sequence[Out], *, whole: bool) -> None:
        with self._work:
            if whole:
                self._backlog.recover(bucket)
            done = [
                group for (group, index, _), answer in zip(part, answers, strict=True) if group.answer(index, answer)
            ]
        for group in done:
            group.resolve()

    def _fail(self, failures: Sequence[tuple[Entry[Out, In], BaseException]]) -> None:
        with self._work:
            done = [group for (group, index, _), error in failures if group.fail(index, error)]
        for group in done:
            group.resolve()

    def _shrink(self, bucket: Bucket, failed_size: int, record: BatchRecord) -> None:
        record.out_of_memory += 1
        with self._work:
            self._backlog.shrink(bucket, failed_size)
        log.warning("out of memory", batcher=self.name, bucket=bucket, size=failed_size)

    @staticmethod
    def _lone_error(error: Exception) -> Exception:
        if not isinstance(error, MemoryError):
            return error
        out_of_memory = EngineOutOfMemory()
        out_of_memory.__cause__ = error
        return out_of_memory

    def _observe(self, record: BatchRecord) -> None:
        if self._observer is None:
            return
        with self._work:
            record.queued, record.ceiling_ratio = self._backlog.size, self._backlog.ceiling_ratio
        try:
            self._observer(record)
        except Exception:
            log.exception("observer failed", batcher=self.name)
