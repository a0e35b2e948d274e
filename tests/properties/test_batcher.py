"""Whatever raises, is cancelled or comes late: each future resolves exactly once, with its own item's answer."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from producer.errors import Cancelled, DeadlineExceeded, EngineOutOfMemory, Internal, Unavailable
from worker.batcher import Batcher
from worker.device import Device

PATIENCE_S = 20.0
MAX_BATCH = {"narrow": 3, "wide": 1, "tall": 8}

Fate = Literal["fine", "raises", "too big", "short", "cancelled", "bursts", "withdrawn", "late"]


@dataclass(frozen=True)
class Item:
    number: int
    bucket: str
    fate: Fate


class Refused(Exception):
    """What a runner raises for a bad item."""


class Recorder:
    """A runner that treats its items by their fate and keeps what it was given."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batches: list[tuple[str, list[Item]]] = []

    def __call__(self, bucket: str, items: list[Item]) -> Sequence[int]:
        with self.lock:
            self.batches.append((bucket, list(items)))
        fates = {item.fate for item in items}
        if "raises" in fates:
            raise Refused
        if "too big" in fates:
            raise MemoryError
        return [item.number for item in items if item.fate != "short"]


EXPECTED: dict[Fate, type[Exception]] = {
    "raises": Refused,
    "too big": EngineOutOfMemory,
    "short": Internal,
    "cancelled": Cancelled,
    "bursts": Internal,
    "late": DeadlineExceeded,
}

fates: st.SearchStrategy[Fate] = st.sampled_from(
    ("fine", "fine", "fine", "raises", "too big", "short", "cancelled", "bursts", "withdrawn", "late")
)
items_of_callers = st.lists(
    st.lists(st.tuples(st.sampled_from(sorted(MAX_BATCH)), fates), max_size=15), min_size=1, max_size=4
)


def burst() -> bool:
    raise SystemExit


CANCELLED: dict[Fate, Callable[[], bool]] = {"cancelled": lambda: True, "bursts": burst}


def submit_from_threads(
    batcher: Batcher[str, Item, int], callers: list[list[Item]], resolved: Counter[int]
) -> dict[Item, Future[int]]:
    """Every caller submits its items in order, from a thread of its own."""
    futures: dict[Item, Future[int]] = {}
    together = threading.Barrier(len(callers))

    def count(item: Item) -> Callable[[Future[int]], None]:
        return lambda future: resolved.update([item.number])

    def submit(items: list[Item]) -> None:
        together.wait(PATIENCE_S)
        for item in items:
            future = batcher.submit(
                item,
                bucket=item.bucket,
                deadline=0.0 if item.fate == "late" else None,
                cancelled=CANCELLED.get(item.fate),
            )
            futures[item] = future
            if item.fate == "withdrawn":
                future.cancel()
            future.add_done_callback(count(item))

    threads = [threading.Thread(target=submit, args=(items,)) for items in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return futures


@given(plan=items_of_callers, runners=st.integers(1, 3), capacity=st.integers(1, 20), upstream=st.integers(0, 1))
def test_every_future_resolves_once_with_its_own_answer(
    plan: list[list[tuple[str, Fate]]], runners: int, capacity: int, upstream: int
) -> None:
    callers = [
        [Item(100 * caller + number, bucket, fate) for number, (bucket, fate) in enumerate(items)]
        for caller, items in enumerate(plan)
    ]
    recorder, device = Recorder(), Device(0)
    batcher: Batcher[str, Item, int] = Batcher(
        "lines",
        [recorder] * runners,
        max_batch=MAX_BATCH.__getitem__,
        max_delay_s=0.001,
        capacity=capacity,
        device=device,
        upstream=lambda: upstream,
    )
    batcher.start()
    resolved: Counter[int] = Counter()

    futures = submit_from_threads(batcher, callers, resolved)
    batcher.stop()
    assert batcher.join(PATIENCE_S)

    assert resolved == Counter(item.number for item in futures)
    for item, future in futures.items():
        # Where one item after the other failed, the device was given up.
        if not (device.failure and not future.cancelled() and type(future.exception(0)) is Unavailable):
            check_outcome(item, future)
    check_batches(recorder, runners)


def check_outcome(item: Item, future: Future[int]) -> None:
    if item.fate == "fine" or (item.fate == "withdrawn" and not future.cancelled()):
        assert future.result(0) == item.number
    elif item.fate != "withdrawn":
        assert type(future.exception(0)) is EXPECTED[item.fate]


def check_batches(recorder: Recorder, runners: int) -> None:
    first_seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    seen: set[int] = set()
    for bucket, items in recorder.batches:
        assert len(items) <= MAX_BATCH[bucket]
        assert all(item.bucket == bucket for item in items)
        assert not any(item.fate in ("cancelled", "bursts", "late") for item in items)
        for item in items:
            if item.number not in seen:
                seen.add(item.number)
                first_seen[bucket, item.number // 100].append(item.number)
    if runners == 1:  # with more, batches of a bucket run side by side
        assert all(numbers == sorted(numbers) for numbers in first_seen.values())


@settings(deadline=None)  # a runner's death is logged with its traceback, which takes long the first time
@given(before=st.integers(0, 12), dies_at=st.integers(1, 6))
def test_every_future_resolves_when_the_runner_dies_or_the_batcher_stops(before: int, dies_at: int) -> None:
    calls = 0

    def mortal(bucket: str, items: list[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return items

    batcher: Batcher[str, int, int] = Batcher(
        "lines", [mortal], max_batch=lambda bucket: 2, max_delay_s=0.0, capacity=100
    )
    futures = [batcher.submit(number, bucket="wide") for number in range(before)]
    batcher.start()
    batcher.stop()
    assert batcher.join(PATIENCE_S)
    futures.append(batcher.submit(before, bucket="wide"))

    for number, future in enumerate(futures):
        error = future.exception(0)
        assert isinstance(error, Internal | Unavailable) or (error is None and future.result(0) == number)
