"""Every metric of a worker, declared once. The gateway serves those of the ledger."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from worker.records import BatchRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

PAGES = Counter("ocrpool_worker_pages", "Pages whose outcome this worker wrote.", ["outcome"])
CACHE_PAGES = Counter(
    "ocrpool_worker_cache_pages",
    "Pages that were looked up by their pixels: hit, joined another page with the same ones, or missed and read.",
    ["outcome"],
)
CACHE_BYTES = Counter("ocrpool_worker_cache_bytes", "Pixels of pages that were not read, as others had the same.")
PAGE_SOURCES = Counter("ocrpool_worker_page_sources", "Pages that were read, by where their text is from.", ["source"])
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
BATCH_ITEMS = Counter(
    "ocrpool_worker_batch_items",
    "Items that a stage is done with: answered, failed, late, cancelled, or refused because it was stopping.",
    ["stage", "outcome"],
)
BATCH_EMPTY_SLOTS = Counter("ocrpool_worker_batch_empty_slots", "Slots of tensors that held no item.", ["stage"])
ITEM_WAIT_SECONDS = Counter(
    "ocrpool_worker_item_wait_seconds", "Waits for a batch, summed over the items that ran.", ["stage"]
)
BATCH_BISECTIONS = Counter("ocrpool_worker_batch_bisections", "Failed batches that were cut in halves.", ["stage"])
BATCH_OUT_OF_MEMORY = Counter(
    "ocrpool_worker_batch_out_of_memory", "Batches that found no memory and halved their bucket's ceiling.", ["stage"]
)
BATCH_CEILING_RATIO = Gauge(
    "ocrpool_worker_batch_ceiling_ratio",
    "Largest batch that memory allows, by a full one, in the bucket where that is least. 1: no bucket is held down.",
    ["stage"],
)
QUEUE_LENGTH = Gauge("ocrpool_worker_queue_length", "Items that wait for their batch, as of the last one.", ["stage"])
BUSY_SECONDS = Counter(
    "ocrpool_worker_busy_seconds", "Time in which at least one batch of the stage was in a predictor.", ["stage"]
)
CARD_MEMORY = Gauge(
    "ocrpool_worker_card_memory_bytes",
    "Memory of the card: free for every process; what this worker's pages and batches use; what is held for them.",
    ["kind"],
)
LINE_PIXELS = Counter("ocrpool_worker_line_pixels", "Pixels of the recogniser's tensors.", ["kind"])
UNITS_REFUSED = Counter(
    "ocrpool_worker_units_refused", "Messages that needed no work: held, done, final or gone.", ["reason"]
)
MESSAGES_REFUSED = Counter("ocrpool_worker_messages_refused", "Messages that are not of this pool's contract.")


def observe_batch(record: BatchRecord) -> None:
    """Count one batch, or items that no batch took."""
    stage = record.name
    answered = record.size - record.failed
    outcomes = {
        "answered": answered,
        "failed": record.failed,
        "late": record.late,
        "cancelled": record.cancelled,
        "refused": record.refused,
    }
    for outcome, items in outcomes.items():
        if items:
            BATCH_ITEMS.labels(stage, outcome).inc(items)
    QUEUE_LENGTH.labels(stage).set(record.queued)
    BUSY_SECONDS.labels(stage).inc(record.busy_s)
    BATCH_CEILING_RATIO.labels(stage).set(record.ceiling_ratio)
    if not record.size:
        return
    BATCH_SIZE.labels(stage).observe(record.size)
    BATCH_FILL.labels(stage).observe(record.size / record.max_size)
    BATCH_WAIT_SECONDS.labels(stage).observe(record.waited_s)
    BATCH_RUN_SECONDS.labels(stage).observe(record.run_s)
    BATCH_EMPTY_SLOTS.labels(stage).inc(record.slots - answered)
    ITEM_WAIT_SECONDS.labels(stage).inc(record.mean_wait_s * record.size)
    BATCH_BISECTIONS.labels(stage).inc(record.bisections)
    BATCH_OUT_OF_MEMORY.labels(stage).inc(record.out_of_memory)
