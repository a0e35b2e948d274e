"""The rules of the batch window: which queued items may leave as a batch now. No threads, no clock of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from producer.errors import Cancelled, DeadlineExceeded

Bucket = TypeVar("Bucket", bound=Hashable)
In = TypeVar("In")
Out = TypeVar("Out")

#: A bucket that has waited this many windows goes before full ones, so that rare shapes do not starve under load.
STARVED_WINDOWS = 10
#: After running out of memory, a bucket's batches grow by half each time this many of them went well.
RECOVERY_BATCHES = 64


@dataclass(eq=False, slots=True)
class Entry(Generic[Bucket, In, Out]):
    """One queued item and the future of its answer."""

    item: In
    bucket: Bucket
    submitted_at: float
    deadline: float | None
    cancelled: Callable[[], bool] | None
    future: Future[Out]

    def refusal(self, now: float) -> Exception | None:
        """Why the item must not run any more."""
        if self.deadline is not None and now >= self.deadline:
            return DeadlineExceeded()
        try:
            return Cancelled() if self.cancelled is not None and self.cancelled() else None
        except Exception as error:
            return error

    def admit(self, now: float) -> bool:
        """Whether the item may run; its future is resolved when not."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if refusal := self.refusal(now):
            self.future.set_exception(refusal)
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """Resolve the future with `error`, unless it is resolved."""
        if self.future.done():
            return
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Backlog(Generic[Bucket, In, Out]):
    """The queued entries by bucket. Not thread-safe: the batcher's lock guards it."""

    def __init__(self, max_batch: Callable[[Bucket], int], max_delay_s: float) -> None:
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._waiting: dict[Bucket, deque[Entry[Bucket, In, Out]]] = {}
        self._ceilings: dict[Bucket, int] = {}
        self._successes: dict[Bucket, int] = {}
        self.size = 0

    def add(self, entry: Entry[Bucket, In, Out]) -> None:
        self._waiting.setdefault(entry.bucket, deque()).append(entry)
        self.size += 1

    def limit(self, bucket: Bucket) -> int:
        """The largest batch of `bucket` now."""
        limit = max(1, self._max_batch(bucket))
        return min(limit, self._ceilings.get(bucket, limit))

    def ready(self, now: float, *, hurry: bool) -> Bucket | None:
        """The bucket whose batch leaves now. `hurry`: nothing can join any more."""
        best: tuple[int, float] | None = None
        chosen: Bucket | None = None
        for bucket, entries in self._waiting.items():
            since = entries[0].submitted_at
            waited = now - since
            if waited >= STARVED_WINDOWS * self._max_delay_s > 0:
                rank = 0
            elif len(entries) >= self.limit(bucket):
                rank = 1
            elif hurry or waited >= self._max_delay_s:
                rank = 2
            else:
                continue
            if best is None or (rank, since) < best:
                best, chosen = (rank, since), bucket
        return chosen

    def due_s(self, now: float) -> float | None:
        """Seconds until the first window closes; None when nothing waits."""
        oldest = min((entries[0].submitted_at for entries in self._waiting.values()), default=None)
        return None if oldest is None else max(0.0, oldest + self._max_delay_s - now)

    def take(self, bucket: Bucket) -> list[Entry[Bucket, In, Out]]:
        entries = self._waiting[bucket]
        batch = [entries.popleft() for _ in range(min(len(entries), self.limit(bucket)))]
        if not entries:
            del self._waiting[bucket]
        self.size -= len(batch)
        return batch

    def take_all(self) -> list[Entry[Bucket, In, Out]]:
        entries = [entry for waiting in self._waiting.values() for entry in waiting]
        self._waiting.clear()
        self.size = 0
        return entries

    def shrink(self, bucket: Bucket, failed_size: int) -> None:
        """A batch of `failed_size` had no room."""
        self._ceilings[bucket] = max(1, min(self.limit(bucket), failed_size // 2))
        self._successes[bucket] = 0

    def recover(self, bucket: Bucket) -> None:
        """A batch went well."""
        if bucket not in self._ceilings:
            return
        self._successes[bucket] += 1
        if self._successes[bucket] >= RECOVERY_BATCHES:
            self._successes[bucket] = 0
            self._ceilings[bucket] += max(1, self._ceilings[bucket] // 2)
            if self._ceilings[bucket] >= self._max_batch(bucket):
                del self._ceilings[bucket], self._successes[bucket]
