"""A consumer that has stalled is found, and no other."""

from __future__ import annotations

from worker.device import Trouble
from worker.intake import Intake


def test_only_a_worker_that_receives_nothing_of_what_waits_is_in_trouble() -> None:
    # Given a worker that took longer to load its models than a message may wait
    now, waiting, busy = 0.0, 3, False
    intake = Intake(lambda: waiting, lambda: busy, 10, clock=lambda: now)
    now = 100
    intake.start()
    intake.stop()
    intake.join()

    # Then it is well for as long from then on
    now = 109
    intake.look()
    assert intake.trouble() is None

    # And while it holds something, and after each message
    now, busy = 130, True
    intake.look()
    now, busy = 139, False
    intake.look()
    intake.received()
    now = 149
    intake.look()
    assert intake.trouble() is None

    # But no longer
    now = 150
    intake.look()
    assert intake.trouble() == Trouble("3 messages wait, and none has come for 11 s")
