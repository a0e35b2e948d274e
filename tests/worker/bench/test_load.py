"""The load generators, on a clock that a simulated service moves."""

from __future__ import annotations

import heapq
from itertools import pairwise
from pathlib import Path

import pytest

from producer.errors import Unavailable
from worker.bench.load import Answer, closed_loop, open_loop, poisson_arrivals
from worker.bench.rates import rate, saturating, users_held

PAGES = [Path("a"), Path("b"), Path("c")]


class Simulated:
    """Answers in order of arrival, `width` documents at a time, each after `service_s` seconds of its own clock."""

    name = "simulated"

    def __init__(self, service_s: float, width: int = 1, *, broken: str = "") -> None:
        self.now = 0.0
        self.width = width
        self.paths: list[str] = []
        self.most_inside = 0
        self._service_s = service_s
        self._broken = broken
        self._free = [0.0] * width
        self._inside: list[tuple[float, int]] = []

    def clock(self) -> float:
        return self.now

    def submit(self, number: int, path: Path) -> None:
        self.paths.append(path.name)
        done = max(self.now, heapq.heappop(self._free)) + self._service_s
        heapq.heappush(self._free, done)
        heapq.heappush(self._inside, (done, number))
        self.most_inside = max(self.most_inside, len(self._inside))

    def answered(self, timeout_s: float) -> Answer | None:
        if not self._inside or self._inside[0][0] > self.now + timeout_s:
            self.now += timeout_s
            return None
        done, number = heapq.heappop(self._inside)
        self.now = max(self.now, done)
        return Answer(number, text=f"text {number}", error=self._broken)


def test_users_wait_for_their_answer_before_they_hand_in_the_next() -> None:
    service = Simulated(1.0, width=2)
    run = closed_loop(service, PAGES, users=4, documents=8, clock=service.clock)
    assert service.most_inside == 4
    assert service.paths == ["a", "b", "c", "a", "b", "c", "a", "b"]
    assert run.documents_per_s == pytest.approx(2.0), "two at a time, a second each"
    assert sorted(run.latencies_s) == [1, 1, 2, 2, 2, 2, 2, 2]
    assert run.texts == [f"text {number}" for number in range(8)]


def test_a_run_that_is_out_of_time_or_hope_waits_for_what_was_handed_in() -> None:
    service = Simulated(1.0)
    run = closed_loop(service, PAGES, users=3, documents=100, limit_s=4.5, clock=service.clock)
    assert len(run.served) == 4 + 3, "four within the time, and the three that were in the service when it was over"

    service = Simulated(1.0)
    run = closed_loop(service, PAGES, users=1, documents=100, hopeless=lambda served: True, clock=service.clock)
    assert len(run.served) == 1


def test_arrivals_do_not_wait_and_latency_counts_from_when_a_document_was_due() -> None:
    service = Simulated(1.0)
    run = open_loop(service, PAGES, [0.5, 0.6, 0.7, 5.0], clock=service.clock)
    assert run.latencies_s == pytest.approx([1.0, 1.9, 2.8, 1.0])
    assert run.seconds == pytest.approx(6.0)


def test_poisson_arrivals_are_the_same_for_a_seed_and_of_the_rate_asked_for() -> None:
    arrivals = poisson_arrivals(20.0, 4000, seed=7)
    assert arrivals == poisson_arrivals(20.0, 4000, seed=7) != poisson_arrivals(20.0, 4000, seed=8)
    assert arrivals == sorted(arrivals)
    assert 4000 / arrivals[-1] == pytest.approx(20.0, rel=0.05)
    gaps = [b - a for a, b in pairwise(arrivals)]
    longer_than_mean = sum(gap > 1 / 20 for gap in gaps) / len(gaps)
    assert longer_than_mean == pytest.approx(1 / 2.71828, abs=0.03), "exponential: independent of each other"


def test_a_queue_at_80_percent_waits_as_theory_has_it() -> None:
    service = Simulated(1.0)
    run = open_loop(service, PAGES, poisson_arrivals(0.8, 20_000, seed=1), clock=service.clock)
    mean_s = sum(run.latencies_s) / len(run.latencies_s)
    # Pollaczek and Khinchine: 1 + 0.8 / (2 x (1 - 0.8)) for a constant service time of 1.
    assert mean_s == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("broken", ["out of paper"])
def test_an_error_ends_the_run_with_the_services_name(broken: str) -> None:
    service = Simulated(1.0, broken=broken)
    with pytest.raises(Unavailable, match="simulated failed: out of paper"):
        closed_loop(service, PAGES, users=1, documents=2, clock=service.clock)


def test_a_service_that_hangs_is_not_waited_for_without_end() -> None:
    service = Simulated(1e6)
    with pytest.raises(Unavailable, match="simulated gave no answer"):
        closed_loop(service, PAGES, users=1, documents=2, clock=service.clock)


def test_a_rate_is_measured_over_whole_passes_of_the_pages() -> None:
    service = Simulated(0.5, width=2)
    run = rate(service, PAGES, least_s=9, most_s=60, clock=service.clock)
    assert run.documents_per_s == pytest.approx(4.0, rel=0.1)
    assert len(run.served) % len(PAGES) == 0
    assert run.seconds >= 9
    assert service.most_inside == saturating(service) == 4


def test_the_users_held_are_those_that_queueing_allows() -> None:
    """Each of N users waits for N documents of 0.2 s each: 25 of them 5 s."""
    service = Simulated(0.2)
    held, trials = users_held(service, PAGES, bound_s=5.0001, documents_per_s=5.0, budget_s=1e6, clock=service.clock)
    assert (held.largest, held.settled) == (25, True)
    assert [trial.users for trial in trials] == sorted(trial.users for trial in trials)
    assert max(trial.p95_ms for trial in trials if trial.users <= 25) <= 5000.1


def test_a_search_out_of_time_says_so() -> None:
    service = Simulated(0.2)
    held, trials = users_held(service, PAGES, bound_s=5.0, documents_per_s=5.0, budget_s=1.0, clock=service.clock)
    assert len(trials) == 1
    assert (held.largest, held.settled) == (18, False)
