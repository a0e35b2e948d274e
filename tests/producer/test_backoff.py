"""The waits before a worker is started again, on a clock of the test's own."""

from __future__ import annotations

import pytest

from producer.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_waits_double_up_to_half_a_minute_and_begin_anew_after_a_good_minute() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock, chance=lambda: 0.0)
    assert backoff.is_due, "the first start waits for nothing"

    assert [backoff.ended() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    # A worker that loads for long and dies then has proved nothing, nor has one that was ready for a moment.
    clock.now_s += 500
    assert backoff.ended() == 30
    backoff.ready()
    clock.now_s += 59
    assert backoff.ended() == 30

    backoff.ready()
    clock.now_s += 30
    backoff.ready()
    clock.now_s += 30
    assert backoff.ended() == 0.5
    assert not backoff.is_ready
    assert backoff.ended() == 1


def test_it_is_due_once_the_wait_is_over() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock, chance=lambda: 0.5)
    backoff.ended()
    wait_s = backoff.ended()

    assert wait_s == pytest.approx(0.875), "chance takes up to a quarter off"
    clock.now_s += 0.874
    assert not backoff.is_due
    clock.now_s += 0.002
    assert backoff.is_due
