"""What ends a worker, and what does not. `tests/integration/test_worker_ends_itself.py` does it to real ones."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Iterator

import pytest

from producer.errors import Unavailable
from worker.device import Trouble
from worker.intake import Intake
from worker.watchdog import STATUS, Watchdog


@pytest.fixture
def no_timer() -> Iterator[None]:
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.usefixtures("no_timer")
def test_trouble_ends_the_process_even_if_nothing_can_be_handed_back() -> None:
    # Given a worker whose ledger does not answer
    found: list[Trouble | None] = [None]
    ends, handed, never = list[int](), list[Trouble](), threading.Event()

    def hand_back(trouble: Trouble) -> None:
        handed.append(trouble)
        never.wait()

    watchdog = Watchdog([lambda: None, lambda: found[0]], hand_back, longest_s=600, end=ends.append)
    watchdog.look()
    assert not ends

    # When something hangs
    found[0] = Trouble("recogniser: 64 items of (48, 320): running for 61 s", hangs=True)
    watchdog.look()

    # Then it was tried, and the process ended
    assert handed == [found[0]]
    assert ends == [STATUS]
    never.set()


class Inbox:
    """An intake whose surroundings the test decides. Messages may wait for 60 s."""

    def __init__(self) -> None:
        self.now, self.messages, self.holds, self.is_away = 0.0, 1, False, False
        self.intake = Intake(self.waiting, lambda: self.holds, 60, clock=lambda: self.now)

    def waiting(self) -> int:
        if self.is_away:
            raise Unavailable
        return self.messages

    def look(self, at: float) -> Trouble | None:
        self.now = at
        self.intake.look()
        return self.intake.trouble()


def test_a_worker_that_holds_nothing_and_receives_nothing_has_stalled() -> None:
    inbox = Inbox()
    assert [inbox.look(at) for at in (6, 30, 60)] == [None] * 3
    assert inbox.look(at=66) == Trouble("1 messages wait, and none has come for 66 s")


@pytest.mark.parametrize("change", ["holds", "messages", "is_away", "received"])
def test_a_worker_that_is_busy_or_has_nothing_to_do_has_not(change: str) -> None:
    # Given messages that wait for half of the time, and then are received or gone, cannot be seen, or find no hand free
    inbox = Inbox()
    inbox.look(at=30)
    if change == "received":
        inbox.intake.received()
    elif change == "is_away":
        inbox.is_away = True
        with pytest.raises(Unavailable):
            inbox.look(at=30)
        inbox.is_away = False
    else:
        before = getattr(inbox, change)
        setattr(inbox, change, not before)
        inbox.look(at=30)
        setattr(inbox, change, before)

    # Then the time counts anew
    assert inbox.look(at=90) is None
    assert inbox.look(at=91) is not None
