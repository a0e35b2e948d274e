"""Items -> batch -> futures. Knows neither Redis nor a GPU.

    submit_many(items) -> future  any thread; blocks while the queue is full
      backlog                     one bounded queue, items by bucket (one fixed tensor shape each) and lane
      crew                        threads: each takes the next batch that may leave, and owns what it runs it on
      runs                        what becomes of a batch: halves where it fails, one outcome for each item
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

from producer.errors import Unavailable
from producer.job import Lane
from worker.backlog import Backlog, Batch, Bucket, In
from worker.crew import Crew
from worker.device import Device, Trouble
from worker.groups import Batches, Group, Out
from worker.records import BatchRecord
from worker.runs import BatchObserver, Runner, Runs

#: Full batches that wait in the next stage from which on it is busy for longer than a batch of this one takes.
BATCHES_AHEAD = 3


class Batcher(Generic[Bucket, In, Out]):
    """Gathers items of many callers into batches of one bucket each.

    Args:
        name: Names the batcher in records, threads and errors.
        runners: One thread is started for each; a runner is only ever called by its own thread. It gets a bucket and
            items of that bucket and returns one answer per item, in order.
        max_batch: The size of a full batch of a bucket.
        max_delay_s: Longest wait of a batch's oldest item for company.
        capacity: Items that may wait; a submission blocks until fewer do, then enters whole.
        device: Where the batches run: while it has room, a batch leaves before its window closes; once it has failed,
            all is refused. None: one of its own, whose windows always count.
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
        self._device = device or Device(0, clock=clock)
        self._upstream = upstream
        self._downstream = downstream
        self._clock = clock
        self._capacity = capacity
        self._max_delay_s = max_delay_s
        self._backlog: Backlog[Bucket, In, Out] = Backlog(max_batch, max_delay_s)
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._refusal: Callable[[], Exception] | None = None
        self._runs = Runs(name, runners, self._device, self._backlog, lock, slots=slots, clock=clock, observer=observer)
        self._crew = Crew(name, prepare or [lambda: None] * len(runners), self._work_on, self._one_ended)
        self._device.watch(self._freed, self._failed)

    def start(self) -> None:
        """Start the runner threads, one after the other, each once the one before it is prepared.

        Raises:
            Exception: what a runner's preparation raised.
        """
        self._crew.start()

    def stop(self) -> None:
        """Refuse new items and let the queued ones run without waiting for company. Returns at once."""
        refusal = partial(Unavailable, f"The {self.name} stage is stopping.")
        if self._crew.works:
            self._close(refusal)
        else:
            self._refuse_all(refusal)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the queued items are resolved and the threads have ended; False when that takes too long."""
        return self._crew.join(timeout_s)

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
        batches: Batches | None = None,
    ) -> Future[list[Out]]:
        """Queue items, each in its own bucket; blocks while the queue is full, until `deadline` at most.

        `batches` gets the records of those that the items are in, complete once the future resolves.

        The future always resolves, once every item has: with the answers in the order of the items, or with the error
        of the first item that has one. That is what its runner raised for it alone, `EngineOutOfMemory`,
        `DeadlineExceeded`, `Cancelled` (when `cancelled()` is true before its batch leaves), `Unavailable` (the batcher
        is stopping or has no runner left, or the device has failed), `DeviceFailed` (it failed with this item on it) or
        `Internal` (its runner ended or broke its contract). `future.cancel()` works until the first of the items
        leaves.
        """
        urgent = lane is Lane.INTERACTIVE
        group: Group[Out] = Group(len(items), urgent=urgent, deadline=deadline, cancelled=cancelled, batches=batches)
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

    def trouble(self, longest_s: float) -> Trouble | None:
        """That a runner has broken, or that nothing has moved for so long although there is work. Takes no lock: what
        hangs may hold it. Of a call that takes too long the device tells."""
        if self._crew.broken_by:
            return Trouble(f"{self.name}: {self._crew.broken_by}")
        still_s = self._clock() - self._runs.moved_at
        if (self.queued or self._runs.busy) and still_s > longest_s + self._backlog.starved_s:
            return Trouble(f"{self.name}: {self.queued} items wait, and none has moved for {still_s:.0f} s", hangs=True)
        return None

    def step(self, number: int = 0) -> bool:
        """Take and run the next batch that may leave, as the runner's thread does; False if none may."""
        with self._work:
            batch = self._take()
        if batch is not None:
            self._runs.run(number, batch)
        return batch is not None

    def _submit(self, group: Group[Out], items: Sequence[In], buckets: Sequence[Bucket]) -> Future[Any]:
        refusal = self._enqueue(group, items, buckets)
        if refusal is not None:
            group.refuse(refusal)
            record = BatchRecord(self.name)
            record.drop(refusal, group.size)
            self._runs.observe(record)
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
            now = self._clock()
            if was_empty:
                self._runs.moved_at = now
            self._backlog.add(group, items, buckets, now)
            # A runner that sleeps on an empty queue has to learn when the window closes.
            if was_empty or self._may_leave():
                self._work.notify()
            return None

    def _freed(self) -> None:
        """A batch of this stage or another is done: a window may have closed, or got shorter."""
        with self._work:
            if self.queued:
                self._work.notify()

    def _failed(self) -> None:
        """The device runs nothing more."""
        self._refuse_all(self._runs.refusal)

    def _one_ended(self, last: bool) -> None:
        """A runner has ended: another looks in its place, which may have been woken instead of it. With the last one
        the queue ends."""
        if last:
            self._refuse_all(partial(Unavailable, f"The {self.name} stage has no runner left."))
        else:
            with self._work:
                self._work.notify()

    def _close(self, refusal: Callable[[], Exception]) -> None:
        with self._work:
            self._refusal = self._refusal or refusal
        self.notify()

    def _refuse_all(self, refusal: Callable[[], Exception]) -> None:
        """Refuse what is queued and what will come."""
        with self._work:
            self._refusal = self._refusal or refusal
            entries = self._backlog.take_all()
        self.notify()
        if entries:
            error = refusal()
            self._runs.fail([(entry, error) for entry in entries])
            self._runs.observe(BatchRecord(self.name, refused=len(entries)))

    def _work_on(self, number: int) -> bool:
        if not self._wait():
            return False
        self.step(number)
        return True

    def _wait(self) -> bool:
        """Wait until a batch may leave; False once the batcher is stopped and drained."""
        with self._work:
            while not self._may_leave():
                if self._refusal is not None:
                    return False
                self._work.wait(self._backlog.due_s(self._clock(), self._window_s()) if self.queued else None)
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
        return 0.0 if self._device.has_room or self._upstream() <= 0 else self._max_delay_s

    def _take(self) -> Batch[Bucket, In, Out] | None:
        """The next batch that may leave, now the runner's. Called with the lock held."""
        now = self._clock()
        batch = self._backlog.take(now, self._window_s())
        if batch is None:
            return None
        for group in {entry[0] for entry in batch.entries}:
            group.begin()
        self._runs.begin(now)
        self._room.notify(len(batch.entries))
        if self._backlog.size:
            self._work.notify()
        return batch
