"""What the batchers tell the metrics: one record a batch, in which each item counts once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from producer.errors import DeadlineExceeded, Internal, Unavailable
from producer.timeline import BatchShare


@dataclass(slots=True)
class BatchRecord:
    """What one batch was, for metrics. Over all records, each item that was handed in counts once: in `size`, `late`,
    `cancelled` or `refused`. Items that no batch took have a record of size 0 and without a bucket."""

    name: str
    bucket: Hashable = None
    #: Counts the batches that left the queue.
    number: int = 0
    #: When it left, on the batcher's clock.
    began_at: float = 0.0
    #: Items that ran: those with an answer and those that failed.
    size: int = 0
    #: The size that would have been a full batch.
    max_size: int = 0
    failed: int = 0
    #: Room for items in the tensors of the calls that answered, empty room included.
    slots: int = 0
    #: Items dropped before they ran: past their deadline, or no longer wanted.
    late: int = 0
    cancelled: int = 0
    #: Items that found the stage stopping, or without a runner.
    refused: int = 0
    #: How long its items waited in the queue: the oldest, and on average.
    waited_s: float = 0.0
    mean_wait_s: float = 0.0
    #: Calls of the runner: one, and two more for each part that was cut in halves.
    calls: int = 0
    bisections: int = 0
    out_of_memory: int = 0
    #: How long the runner took, retries in halves included.
    run_s: float = 0.0
    #: Time since the last record in which at least one runner was busy: the device's, as the host sees it.
    busy_s: float = 0.0
    #: The least of the buckets' largest batches that memory allows now, by their full ones.
    ceiling_ratio: float = 1.0
    #: Items left in the queue.
    queued: int = 0

    def share(self, items: int, submitted_at: float) -> BatchShare:
        """What it had of a group: so many items, handed in at that time. Complete once they are answered."""
        return BatchShare(
            batch=self.number,
            items=items,
            size=self.size,
            fill=round(self.size / self.max_size, 3),
            wait_ms=round(1000 * (self.began_at - submitted_at), 1),
            compute_ms=round(1000 * self.run_s, 1),
        )

    def drop(self, refusal: Exception, items: int = 1) -> None:
        """Count items that `refusal` kept from running."""
        if isinstance(refusal, DeadlineExceeded):
            self.late += items
        elif isinstance(refusal, Unavailable | Internal):
            self.refused += items
        else:
            self.cancelled += items
