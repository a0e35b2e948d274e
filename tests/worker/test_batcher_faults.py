"""What a batcher's threads do when something raises that should not, or when they slept while the world changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from worker.backlog import STARVED_WINDOWS
from worker.batcher import BATCHES_AHEAD, Batcher
from worker.device import Device

PATIENCE_S = 10.0
WINDOW_S = 0.5


def double(bucket: str, items: list[int]) -> Sequence[int]:
    return [2 * item for item in items]


def build(*runners: Callable[[str, list[int]], Sequence[int]], **options: Any) -> Batcher[str, int, int]:
    return Batcher("lines", runners, max_batch=lambda bucket: 4, max_delay_s=WINDOW_S, capacity=8, **options)


def test_a_window_that_got_shorter_is_seen_when_a_batch_of_the_next_stage_is_done() -> None:
    # Given a stage that waits, for the next one is busy, on a device without room
    ahead, device = BATCHES_AHEAD, Device(0)
    batcher = build(double, device=device, upstream=lambda: 1, downstream=lambda urgent: ahead)
    batcher.start()
    device.begin()
    began = time.monotonic()
    future = batcher.submit(1, bucket="wide")
    assert_waits(batcher)

    # When the next one has caught up
    ahead = 0
    device.end()

    # Then the usual window counts
    assert future.result(PATIENCE_S) == 2
    assert time.monotonic() - began < STARVED_WINDOWS * WINDOW_S / 2
    batcher.stop()
    assert batcher.join(PATIENCE_S)


def assert_waits(batcher: Batcher[str, int, int]) -> None:
    """Once this returns, its runner sleeps for as long as the window is now."""
    end = time.monotonic() + PATIENCE_S
    while not batcher._work._waiters:  # type: ignore[attr-defined]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["shrink", "recover", "resolve"])
def test_items_are_resolved_whatever_raises_meanwhile(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def raises(*_: object) -> None:
        raise OSError("No space left on device")

    def run(bucket: str, items: list[int]) -> Sequence[int]:
        if where == "shrink":
            raise MemoryError
        return items

    # Given a full batch, and something beside it that fails when it has run
    batcher = build(run)
    futures = [batcher.submit(item, bucket="wide") for item in (1, 2, 3, 4)]
    if where == "resolve":
        monkeypatch.setattr(Future, "_invoke_callbacks", raises)
    else:
        monkeypatch.setattr(batcher._backlog, where, raises)

    with pytest.raises(OSError, match="No space"):
        batcher.step()

    # Then nobody waits for ever
    assert all(future.done() for future in futures)


def test_a_runner_that_ends_lets_another_look() -> None:
    # Given two runners that sleep, and an upstream that fails the first that asks it
    asked: list[str] = []

    def upstream() -> int:
        asked.append(threading.current_thread().name)
        if len(asked) == 1:
            raise SystemExit
        return 0

    batcher = build(double, double, upstream=upstream)
    batcher.start()

    # When an item comes, which wakes one of them
    future = batcher.submit(1, bucket="wide")

    # Then the other takes it
    assert future.result(PATIENCE_S) == 2
    assert len(set(asked)) == 2
    batcher.stop()
    assert batcher.join(PATIENCE_S)
