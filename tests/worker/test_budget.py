"""Decoded pages share a budget: in turn, and a page larger than all of it alone."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pikepdf
import pytest

from producer.errors import Unavailable
from producer.job import MediaType
from producer.settings import Settings
from worker.budget import RasterBudget
from worker.rasterise import Rasteriser

PATIENCE_S = 30.0


class Queue:
    """Askers whose order is known: each is in the queue before the next one asks."""

    def __init__(self, budget: RasterBudget) -> None:
        self.budget = budget
        self.granted: list[int] = []
        self.threads: list[threading.Thread] = []

    def ask(self, size_bytes: int) -> None:
        def take() -> None:
            self.budget.take(size_bytes)
            self.granted.append(size_bytes)

        waiting = len(self.budget)
        self.threads.append(threading.Thread(target=take, daemon=True))
        self.threads[-1].start()
        while len(self.budget) == waiting and self.threads[-1].is_alive():
            threading.Event().wait(0.001)


def test_bytes_are_granted_in_turn_and_too_many_alone() -> None:
    budget = RasterBudget(100)
    budget.take(60)
    queue = Queue(budget)
    queue.ask(500)  # more than there are
    queue.ask(10)  # would fit, but is behind
    assert queue.granted == []

    budget.give_back(60)
    queue.threads[0].join(PATIENCE_S)
    assert queue.granted == [500]

    budget.give_back(500)
    queue.threads[1].join(PATIENCE_S)
    assert queue.granted == [500, 10]
    assert budget.taken_bytes == 10


def test_whoever_waits_for_a_budget_that_closes_is_told() -> None:
    budget = RasterBudget(1)
    budget.take(1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(budget.take, 1)
        budget.close()
        with pytest.raises(Unavailable):
            waiting.result(PATIENCE_S)


def test_large_pages_of_a_small_file_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    # Given a few hundred bytes that become pages of 3 MB each, and a budget of 4 MB
    path = tmp_path / "large"
    with pikepdf.new() as document:
        for _ in range(4):
            document.add_blank_page(page_size=(14_400, 14_400))
        document.save(path)
    settings = Settings(rasterise_processes=2, max_page_pixels=1_000_000, raster_budget_bytes=4_000_000)
    rasteriser = Rasteriser(settings)
    rasteriser.start()
    most = 0

    def read(number: int) -> None:
        nonlocal most
        with rasteriser.page(path, MediaType.PDF, number):
            most = max(most, rasteriser.raster_bytes)

    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(read, [1, 2, 3, 4]))
        gc.collect()
        assert 2_900_000 < most <= 4_000_000
        assert rasteriser.raster_bytes == 0

        # And who waits while the pool stops is told
        with rasteriser.page(path, MediaType.PDF, 1), ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(read, 2)
            rasteriser.stop()
            with pytest.raises(Unavailable):
                waiting.result(PATIENCE_S)
    finally:
        rasteriser.stop()
