"""What becomes of a batch once it has left the queue: it is run, cut in halves where it fails, and each of its items
has one outcome."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Generic

import structlog

from producer.errors import EngineOutOfMemory, Internal, Unavailable
from worker.backlog import Backlog, Batch, Bucket, Entry, In
from worker.device import Device, DeviceFailed
from worker.groups import Group, Out
from worker.records import BatchRecord
from worker.streak import Streak

log = structlog.get_logger(__name__)

BatchObserver = Callable[[BatchRecord], None]
Runner = Callable[[Bucket, list[In]], Sequence[Out]]


class Runs(Generic[Bucket, In, Out]):
    """The running batches of one batcher, whose `lock` guards the backlog and the groups; see `Batcher`."""

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner[Bucket, In, Out]],
        device: Device,
        backlog: Backlog[Bucket, In, Out],
        lock: threading.Lock,
        *,
        slots: Callable[[Bucket, int], int],
        clock: Callable[[], float],
        observer: BatchObserver | None,
    ) -> None:
        self._name = name
        self._runners = runners
        self._device = device
        self._backlog = backlog
        self._lock = lock
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._streak = Streak()
        self._numbers = itertools.count(1)
        self._busy_since = 0.0
        #: Runners with a batch.
        self.busy = 0
        #: When last a batch left or ended, a runner was called, or an item came to an empty queue.
        self.moved_at = clock()

    def begin(self, now: float) -> None:
        """A batch leaves. Called with the lock held."""
        if not self.busy:
            self._busy_since = now
        self.busy += 1
        self.moved_at = now
        self._device.begin()

    def run(self, number: int, batch: Batch[Bucket, In, Out]) -> None:
        """Run a batch that has begun, on one of the runners."""
        started = self._clock()
        record = BatchRecord(
            self._name, batch.bucket, number=next(self._numbers), began_at=started, max_size=batch.max_size
        )
        try:
            entries = self._admit(batch.entries, record, started)
            if entries:
                self._run_parts(number, batch.bucket, entries, record)
        finally:
            with self._lock:
                now = self._clock()
                self.busy -= 1
                self.moved_at = now
                record.busy_s, self._busy_since = now - self._busy_since, now
            self._device.end()
            record.run_s = now - started
            self.observe(record)

    def fail(self, failures: Sequence[tuple[Entry[Out, In], BaseException]]) -> None:
        """Give each entry its error."""
        with self._lock:
            done = [group for (group, index, _), error in failures if group.fail(index, error)]
        _resolve(done)

    def refusal(self) -> Unavailable:
        """What items get that come to a device that has failed."""
        return Unavailable(f"The {self._name} stage cannot go on: {self._device.failure}.")

    def observe(self, record: BatchRecord) -> None:
        if self._observer is None:
            return
        with self._lock:
            record.queued, record.ceiling_ratio = self._backlog.size, self._backlog.ceiling_ratio
        try:
            self._observer(record)
        except Exception:
            log.exception("observer failed", batcher=self._name)

    def _admit(self, entries: list[Entry[Out, In]], record: BatchRecord, now: float) -> list[Entry[Out, In]]:
        """The entries that may run; the others are resolved."""
        refusals = {group: group.refusal(now) for group in {entry[0] for entry in entries}}
        if any(refusals.values()):
            dropped = [(entry, refusal) for entry in entries if (refusal := refusals[entry[0]])]
            for _, refusal in dropped:
                record.drop(refusal)
            self.fail(dropped)
            entries = [entry for entry in entries if not refusals[entry[0]]]
        if entries:
            record.size = len(entries)
            for group, items in Counter(entry[0] for entry in entries).items():
                if group.batches is not None:
                    group.batches.append((record, items))
            waits = [now - entry[0].submitted_at for entry in entries]
            record.waited_s, record.mean_wait_s = max(waits), sum(waits) / len(waits)
        return entries

    def _run_parts(self, number: int, bucket: Bucket, entries: list[Entry[Out, In]], record: BatchRecord) -> None:
        """Run the entries, cutting what fails in halves until the guilty item stands alone."""
        parts = [entries]
        try:
            while parts and not self._device.failure:
                self._run_part(number, bucket, parts, record)
        except DeviceFailed as error:
            self._fail_rest(parts, error, record)
            self._device.fail(str(error))
            return
        except BaseException as error:
            self._fail_rest(parts, Internal(f"The {self._name} stage failed: {type(error).__name__}."), record)
            raise
        if parts:
            self._fail_rest(parts, self.refusal(), record)

    def _run_part(self, number: int, bucket: Bucket, parts: list[list[Entry[Out, In]]], record: BatchRecord) -> None:
        """Run the last of `parts`, and put its halves in its place where it fails."""
        part = parts[-1]
        try:
            answers = self._call(number, bucket, part, record)
        except DeviceFailed:
            raise
        except Exception as error:
            if isinstance(error, MemoryError):
                self._shrink(bucket, len(part), record)
            # Until here it is among the rest: what raises meanwhile resolves it all the same.
            parts.pop()
            if len(part) == 1:
                record.failed += 1
                self._fail_alone(part[0], error)
            else:
                record.bisections += 1
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        else:
            record.slots += self._slots(bucket, len(part))
            self._succeed(bucket, parts, answers, whole=not record.bisections)

    def _call(self, number: int, bucket: Bucket, part: list[Entry[Out, In]], record: BatchRecord) -> Sequence[Out]:
        record.calls += 1
        self.moved_at = self._clock()
        with self._device.call(lambda: f"{self._name}: {len(part)} items of {bucket}"):
            answers = list(self._runners[number](bucket, [item for _, _, item in part]))
        # Known to whoever gets the answers; the batch may have parts that are still to run.
        record.run_s = self._clock() - record.began_at
        if len(answers) != len(part):
            raise Internal(f"The {self._name} stage gave {len(answers)} answers to {len(part)} items.")
        return answers

    def _succeed(
        self, bucket: Bucket, parts: list[list[Entry[Out, In]]], answers: Sequence[Out], *, whole: bool
    ) -> None:
        with self._lock:
            self._streak.end()
            if whole:
                self._backlog.recover(bucket)
            part = parts.pop()
            done = [
                group for (group, index, _), answer in zip(part, answers, strict=True) if group.answer(index, answer)
            ]
        _resolve(done)

    def _fail_alone(self, entry: Entry[Out, In], error: Exception) -> None:
        self.fail([(entry, _lone_error(error))])
        with self._lock:
            nobody_to_blame = self._streak.grow(entry[0])
        if nobody_to_blame:
            self._device.fail(f"{self._name}: one item after the other fails, now with {type(error).__name__}: {error}")

    def _fail_rest(self, parts: list[list[Entry[Out, In]]], error: Exception, record: BatchRecord) -> None:
        rest = [(entry, error) for part in parts for entry in part]
        record.failed += len(rest)
        self.fail(rest)

    def _shrink(self, bucket: Bucket, failed_size: int, record: BatchRecord) -> None:
        record.out_of_memory += 1
        with self._lock:
            self._backlog.shrink(bucket, failed_size)
        log.warning("out of memory", batcher=self._name, bucket=bucket, size=failed_size)


def _resolve(groups: Sequence[Group[Out]]) -> None:
    """Resolve each, even if a callback of another raises; then that is raised."""
    with ExitStack() as rest:
        for group in reversed(groups):
            rest.callback(group.resolve)


def _lone_error(error: Exception) -> Exception:
    if not isinstance(error, MemoryError):
        return error
    out_of_memory = EngineOutOfMemory()
    out_of_memory.__cause__ = error
    return out_of_memory
