"""What a batch's record does to the metrics."""

from __future__ import annotations

from prometheus_client import REGISTRY

from worker.metrics import observe_batch
from worker.records import BatchRecord


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"ocrpool_worker_{name}", {"stage": "recorded", **labels}) or 0.0


def test_each_item_is_counted_once_under_its_outcome() -> None:
    observe_batch(
        BatchRecord(
            "recorded",
            (48, 320),
            size=5,
            max_size=8,
            failed=1,
            slots=8,
            late=2,
            waited_s=0.2,
            mean_wait_s=0.1,
            calls=3,
            bisections=1,
            run_s=0.5,
            busy_s=0.25,
            queued=7,
        )
    )
    # A record of items that no batch took counts them, and no batch
    observe_batch(BatchRecord("recorded", refused=3, ceiling_ratio=0.5))

    items = {name: value("batch_items_total", outcome=name) for name in ("answered", "failed", "late", "refused")}
    assert items == {"answered": 4, "failed": 1, "late": 2, "refused": 3}
    assert value("batch_size_count") == value("batch_bisections_total") == 1
    assert value("batch_empty_slots_total") == 4
    assert value("item_wait_seconds_total") == 0.5
    assert value("busy_seconds_total") == 0.25
    assert value("batch_ceiling_ratio") == 0.5
    assert value("queue_length") == 0
