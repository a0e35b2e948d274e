"""Jobs take turns on the page threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from producer.job import Lane
from worker.turns import BULK_SHARE, Turns


@pytest.fixture
def one_thread() -> Iterator[Turns]:
    turns = Turns(1, for_interactive=0)
    turns.start()
    yield turns
    turns.stop()
    turns.join()


def test_a_lone_page_does_not_wait_behind_a_long_document(one_thread: Turns) -> None:
    # Given a busy thread, a long document in the queue, and two pages that come after it
    gate, order = threading.Event(), list[str]()
    one_thread.submit("gate", Lane.INTERACTIVE, gate.wait)
    futures = [one_thread.submit("long", Lane.INTERACTIVE, order.append, f"long {page}") for page in range(1, 4)]
    futures += [one_thread.submit(job, Lane.INTERACTIVE, order.append, job) for job in ("a", "b")]

    gate.set()
    for future in futures:
        future.result(timeout=10)

    assert order == ["long 1", "a", "b", "long 2", "long 3"]


def test_interactive_jobs_go_first_and_bulk_has_its_share(one_thread: Turns) -> None:
    # Given a busy thread, and bulk pages that came before as many interactive ones as two shares
    gate, entered, order = threading.Event(), threading.Event(), list[Lane]()

    def hold() -> None:
        entered.set()
        gate.wait()

    one_thread.submit("gate", Lane.INTERACTIVE, hold)
    assert entered.wait(10)
    pages = [(Lane.BULK, 3), (Lane.QUARANTINE, 1), (Lane.INTERACTIVE, 2 * (BULK_SHARE - 1))]
    futures = [one_thread.submit(lane.value, lane, order.append, lane) for lane, count in pages for _ in range(count)]

    gate.set()
    for future in futures:
        future.result(timeout=10)

    # Then one turn of each share is bulk's, where jobs take turns too, and the rest comes once nobody else waits
    share = [Lane.INTERACTIVE] * (BULK_SHARE - 1)
    assert order == [*share, Lane.BULK, *share, Lane.QUARANTINE, Lane.BULK, Lane.BULK]


def test_an_interactive_page_waits_for_no_bulk_page_to_end() -> None:
    turns = Turns(2)
    turns.start()
    gate, inside = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        inside.release()
        gate.wait()

    try:
        # Given threads that are all taken by long bulk pages, and more of them that wait
        bulk = [turns.submit("book", Lane.BULK, hold) for _ in range(4)]
        assert all(inside.acquire(timeout=10) for _ in range(2))
        # Then an interactive one is read at once, and bulk gets no more hands than it had
        assert turns.submit("letter", Lane.INTERACTIVE, lambda: 7).result(timeout=10) == 7
        assert not inside.acquire(blocking=False)
    finally:
        gate.set()
    for future in bulk:
        future.result(timeout=10)
    turns.stop()
    turns.join()


def test_an_error_reaches_its_caller_and_the_thread_lives(one_thread: Turns) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        one_thread.submit("job", Lane.BULK, fail).result(timeout=10)
    assert one_thread.submit("job", Lane.BULK, lambda: 7).result(timeout=10) == 7


def test_stopping_runs_what_is_queued_and_refuses_more() -> None:
    turns = Turns(2)
    futures: list[Future[int]] = [turns.submit(f"job {n % 3}", list(Lane)[n % 2], int, n) for n in range(20)]
    turns.start()
    turns.stop()
    turns.join()
    assert [future.result(timeout=0) for future in futures] == list(range(20))
    with pytest.raises(RuntimeError):
        turns.submit("late", Lane.BULK, int)
