"""The rules of the batch window: which queued items leave as a batch now. No threads, no clock of its own.

Two lanes share each bucket. Interactive items leave first and bulk fills their batches; bulk leads a batch when no
interactive item waits, and by the two exceptions of `Backlog._leader`. Adding an item costs no scan, taking a batch one
over the buckets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.groups import Group, Out

Bucket = TypeVar("Bucket", bound=Hashable)
In = TypeVar("In")
#: A queued item: its group, its place there, and itself. A tuple, because thousands are made each second.
Entry = tuple[Group[Out], int, In]

#: A bucket that has waited this many windows goes before full ones, so that rare shapes do not starve under load. Bulk
#: that has waited as long has its share of the batches.
STARVED_WINDOWS = 10
#: Of this many batches, one is led by starving bulk while interactive items keep coming.
BULK_SHARE = 8
#: After running out of memory, a bucket's batches grow by half each time this many of them went well.
RECOVERY_BATCHES = 64

_STARVED, _FULL, _DUE, _EARLY = range(4)


@dataclass(frozen=True, slots=True)
class Batch(Generic[Bucket, In, Out]):
    """Items of one bucket that leave together."""

    bucket: Bucket
    entries: list[Entry[Out, In]]
    #: Whether an interactive item made it leave.
    urgent: bool
    #: The size of a full batch, had memory never run out.
    max_size: int


class _Shelf(Generic[Bucket, In, Out]):
    """One bucket's entries, by lane, and the largest batch that it may give."""

    __slots__ = ("bucket", "bulk", "limit", "max_size", "size", "successes", "urgent")

    def __init__(self, bucket: Bucket, max_size: int) -> None:
        self.bucket = bucket
        self.max_size = self.limit = max_size
        self.urgent: deque[Entry[Out, In]] = deque()
        self.bulk: deque[Entry[Out, In]] = deque()
        self.size = 0
        #: Batches that went well since the limit changed.
        self.successes = 0

    def take(self, *, urgent: bool) -> list[Entry[Out, In]]:
        """A batch with the entries of one lane first; the other lane's fill it."""
        batch: list[Entry[Out, In]] = []
        for queue in (self.urgent, self.bulk) if urgent else (self.bulk, self.urgent):
            count = min(self.limit - len(batch), len(queue))
            batch += [queue.popleft() for _ in range(count)]
        self.size -= len(batch)
        return batch


@dataclass(frozen=True, slots=True)
class _Candidate(Generic[Bucket, In, Out]):
    """The shelf that a lane would take from, why, and the group at its head."""

    rank: int
    shelf: _Shelf[Bucket, In, Out]
    head: Group[Out]


class Backlog(Generic[Bucket, In, Out]):
    """The queued entries by bucket and lane. Not thread-safe: the batcher's lock guards it.

    Args:
        max_batch: The size of a full batch of a bucket; asked once for each.
        max_delay_s: The usual window.

    Attributes:
        full: How many buckets hold a full batch.
        starved_s: The wait after which a bucket goes before full ones.
    """

    def __init__(self, max_batch: Callable[[Bucket], int], max_delay_s: float) -> None:
        self._max_batch = max_batch
        self.starved_s = STARVED_WINDOWS * max_delay_s
        self._shelves: dict[Bucket, _Shelf[Bucket, In, Out]] = {}
        self.full = 0
        self._oldest_at = 0.0
        self._groups = 0
        self._bulk_led = 0
        self._urgent_led = 0
        self.size = 0

    def add(self, group: Group[Out], items: Iterable[In], buckets: Iterable[Bucket], now: float) -> None:
        """Queue a group's items, each in its own bucket."""
        if not self.size:
            self._oldest_at = now
        self._groups += 1
        group.submitted_at, group.number, group.bulk_before = now, self._groups, self._bulk_led
        shelves, urgent = self._shelves, group.urgent
        for index, (item, bucket) in enumerate(zip(items, buckets, strict=True)):
            shelf = shelves.get(bucket) or self._open(bucket)
            (shelf.urgent if urgent else shelf.bulk).append((group, index, item))
            shelf.size += 1
            if shelf.size == shelf.limit:
                self.full += 1
        self.size += group.size

    def may_leave(self, now: float, window_s: float) -> bool:
        """Whether a batch may leave: one that is full, or whose oldest item has waited `window_s`."""
        return self.size > 0 and (self.full > 0 or now - self._oldest_at >= window_s)

    def take(self, now: float, window_s: float) -> Batch[Bucket, In, Out] | None:
        """The batch that leaves now, if one may."""
        leader = self._leader(now, window_s) if self.may_leave(now, window_s) else None
        if leader is None:
            return None
        shelf, urgent = leader.shelf, leader.head.urgent
        if urgent:
            self._urgent_led += 1
        else:
            self._bulk_led += 1
            self._urgent_led = 0
        was_full = shelf.size >= shelf.limit
        entries = shelf.take(urgent=urgent)
        self.full -= was_full and shelf.size < shelf.limit
        self.size -= len(entries)
        self._oldest_at = self._oldest()
        return Batch(shelf.bucket, entries, urgent, shelf.max_size)

    def due_s(self, now: float, window_s: float) -> float | None:
        """Seconds until the first window closes; None when nothing waits."""
        return max(0.0, self._oldest_at + window_s - now) if self.size else None

    def take_all(self) -> list[Entry[Out, In]]:
        entries = [entry for shelf in self._shelves.values() for entry in (*shelf.urgent, *shelf.bulk)]
        for shelf in self._shelves.values():
            shelf.urgent.clear()
            shelf.bulk.clear()
            shelf.size = 0
        self.size = self.full = 0
        return entries

    def shrink(self, bucket: Bucket, failed_size: int) -> None:
        """A batch of `failed_size` had no room."""
        shelf = self._shelves[bucket]
        self._set_limit(shelf, max(1, min(shelf.limit, failed_size // 2)))

    def recover(self, bucket: Bucket) -> None:
        """A batch went well."""
        shelf = self._shelves[bucket]
        if shelf.limit == shelf.max_size:
            return
        shelf.successes += 1
        if shelf.successes >= RECOVERY_BATCHES:
            self._set_limit(shelf, min(shelf.max_size, shelf.limit + max(1, shelf.limit // 2)))

    @property
    def has_urgent(self) -> bool:
        """Whether an interactive item waits."""
        return any(shelf.urgent for shelf in self._shelves.values())

    def full_batches(self, *, urgent: bool) -> int:
        """How many buckets hold a full batch; `urgent`: of interactive items alone. One off without the lock."""
        if not urgent:
            return self.full
        return sum(len(shelf.urgent) >= shelf.limit for shelf in tuple(self._shelves.values()))

    @property
    def ceiling_ratio(self) -> float:
        """The largest batch that memory allows now, by a full one, in the bucket where that is least."""
        return min((shelf.limit / shelf.max_size for shelf in self._shelves.values()), default=1.0)

    def _open(self, bucket: Bucket) -> _Shelf[Bucket, In, Out]:
        shelf = self._shelves[bucket] = _Shelf(bucket, max(1, self._max_batch(bucket)))
        return shelf

    def _set_limit(self, shelf: _Shelf[Bucket, In, Out], limit: int) -> None:
        self.full += (shelf.size >= limit) - (shelf.size >= shelf.limit)
        shelf.limit, shelf.successes = limit, 0

    def _oldest(self) -> float:
        heads = (queue[0][0] for shelf in self._shelves.values() for queue in (shelf.urgent, shelf.bulk) if queue)
        return min((head.submitted_at for head in heads), default=0.0)

    def _leader(self, now: float, window_s: float) -> _Candidate[Bucket, In, Out] | None:
        """Interactive before bulk. Bulk leads in spite of waiting interactive items

        - once it starves, for one batch of each `BULK_SHARE`;
        - while their window is open, for one batch: after it, they leave with what there is.

        So an interactive item waits behind one batch that bulk leads, and one more for each 7 of its own lane.
        """
        urgent = self._best(now, window_s, urgent=True)
        bulk = self._best(now, window_s, urgent=False)
        if urgent is None or bulk is None:
            only = urgent or bulk
            return only if only is not None and only.rank < _EARLY else None
        if self._urgent_led >= BULK_SHARE - 1 and now - bulk.head.submitted_at >= self.starved_s:
            return bulk
        if urgent.rank < _EARLY:
            return urgent
        if bulk.rank < _EARLY:
            return urgent if self._bulk_led > urgent.head.bulk_before else bulk
        return None

    def _best(self, now: float, window_s: float, *, urgent: bool) -> _Candidate[Bucket, In, Out] | None:
        """A lane's next shelf: starved ones first, then full ones, then those whose window has closed, oldest first."""
        starved_s = self.starved_s or math.inf
        best: tuple[int, int] | None = None
        chosen: _Shelf[Bucket, In, Out] | None = None
        for shelf in self._shelves.values():
            queue = shelf.urgent if urgent else shelf.bulk
            if not queue:
                continue
            head = queue[0][0]
            waited_s = now - head.submitted_at
            if waited_s >= starved_s:
                rank = _STARVED
            elif shelf.size >= shelf.limit:
                rank = _FULL
            else:
                rank = _DUE if waited_s >= window_s else _EARLY
            if best is None or (rank, head.number) < best:
                best, chosen = (rank, head.number), shelf
        if best is None or chosen is None:
            return None
        return _Candidate(best[0], chosen, (chosen.urgent if urgent else chosen.bulk)[0][0])
