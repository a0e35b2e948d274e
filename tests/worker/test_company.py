"""A quarantined page has its worker to itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from worker.company import Company

PATIENCE_S = 10.0


class Visit:
    """Somebody who comes, and stays until told to leave."""

    def __init__(self, threads: ThreadPoolExecutor, come: Callable[[], AbstractContextManager[None]]) -> None:
        self.here, self.leave = threading.Event(), threading.Event()
        self._come = come
        self._done: Future[None] = threads.submit(self._stay)

    def _stay(self) -> None:
        with self._come():
            self.here.set()
            assert self.leave.wait(PATIENCE_S)

    def end(self) -> None:
        self.leave.set()
        self._done.result(PATIENCE_S)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_one_is_alone_after_those_before_it_and_before_those_after_it(threads: ThreadPoolExecutor) -> None:
    company = Company()
    first, second = Visit(threads, company.shared), Visit(threads, company.shared)
    assert first.here.wait(PATIENCE_S)
    assert second.here.wait(PATIENCE_S)

    hermit = Visit(threads, company.alone)
    end = time.monotonic() + PATIENCE_S
    while not company._want_to_be_alone:
        assert time.monotonic() < end
        time.sleep(0.01)
    late = Visit(threads, company.shared)
    first.end()
    assert not hermit.here.is_set()
    assert not late.here.is_set()

    second.end()
    assert hermit.here.wait(PATIENCE_S)
    assert not late.here.is_set()

    hermit.end()
    assert late.here.wait(PATIENCE_S)
    late.end()


def test_two_are_never_alone_together(threads: ThreadPoolExecutor) -> None:
    company = Company()
    hermits = [Visit(threads, company.alone) for _ in range(4)]
    for _ in hermits:
        (here,) = [hermit for hermit in hermits if not hermit.leave.is_set() and hermit.here.wait(0.3)]
        here.end()
