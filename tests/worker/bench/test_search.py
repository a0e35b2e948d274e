"""The search for the largest number that holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.bench.search import Held, largest_held


@given(st.integers(0, 600), st.integers(1, 700), st.integers(1, 512))
def test_it_finds_the_largest_from_any_start_and_tries_none_twice(true: int, start: int, limit: int) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= true

    found = largest_held(holds, start=start, limit=limit, precision=0.0)

    assert found == Held(min(true, limit), settled=true < limit)
    assert len(tried) == len(set(tried)) <= 2 * limit.bit_length() + 2
    assert all(1 <= number <= limit for number in tried)


def test_it_stops_at_the_precision_asked_for() -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= 1000

    found = largest_held(holds, start=100, limit=10_000, precision=0.1)
    assert 900 <= found.largest <= 1000
    assert found.settled
    assert len(tried) <= 8


def test_it_stops_when_the_time_is_up() -> None:
    times = iter([False, False, True])
    assert largest_held(lambda number: True, start=3, limit=99, expired=lambda: next(times)) == Held(6, settled=False)
