"""Every metric of a worker, declared once. The gateway serves those of the ledger."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from worker.batcher import BatchRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

PAGES = Counter("ocrpool_worker_pages", "Pages whose outcome this worker wrote.", ["outcome"])
PAGES_IN_FLIGHT = Gauge("ocrpool_worker_pages_in_flight", "Pages that this worker is reading.")
STAGE_SECONDS = Histogram(
    "ocrpool_worker_stage_seconds", "A page's time in each stage, its waits included.", ["stage"], buckets=_SECONDS
)
BATCH_SIZE = Histogram(
    "ocrpool_worker_batch_size", "Items in a batch.", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_FILL = Histogram(
    "ocrpool_worker_batch_fill_ratio",
    "Items in a batch, by the items of a full one.",
    ["stage"],
    buckets=tuple(n / 10 for n in range(1, 11)),
)
BATCH_WAIT_SECONDS = Histogram(
    "ocrpool_worker_batch_wait_seconds", "Wait of a batch's oldest item.", ["stage"], buckets=_SECONDS
)
BATCH_RUN_SECONDS = Histogram(
    "ocrpool_worker_batch_run_seconds", "Time of a batch in its predictor.", ["stage"], buckets=_SECONDS
)
LINE_PIXELS = Counter("ocrpool_worker_line_pixels", "Pixels of the recogniser's tensors.", ["kind"])
UNITS_REFUSED = Counter(
    "ocrpool_worker_units_refused", "Messages that needed no work: held, done, final or gone.", ["reason"]
)
MESSAGES_REFUSED = Counter("ocrpool_worker_messages_refused", "Messages that are not of this pool's contract.")


def observe_batch(record: BatchRecord) -> None:
    """Count one batch."""
    BATCH_SIZE.labels(record.name).observe(record.size)
    BATCH_FILL.labels(record.name).observe(record.size / record.max_size)
    BATCH_WAIT_SECONDS.labels(record.name).observe(record.waited_s)
    BATCH_RUN_SECONDS.labels(record.name).observe(record.run_s)
