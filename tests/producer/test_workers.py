"""The pool's launcher outlives a machine that is short of processes or memory for a while."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from producer import workers
from producer.errors import Unavailable
from producer.ledger import Ledger
from producer.plan import WorkerPlan
from producer.settings import Settings
from producer.workers import Workers


class Machine:
    """Starts processes that live until they are ended, unless it is full."""

    def __init__(self) -> None:
        self.full = False
        self.started: list[SimpleNamespace] = []

    def process(self, name: str, *_: Any, **__: Any) -> SimpleNamespace:
        if self.full:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        popen = SimpleNamespace(returncode=None)
        popen.poll = lambda: popen.returncode
        started = SimpleNamespace(name=name, popen=popen, log_path=None)
        self.started.append(started)
        return started


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(workers, "Process", machine.process)
    return machine


def test_a_worker_that_cannot_be_started_again_is_tried_later_and_costs_no_other(
    settings: Settings, machine: Machine
) -> None:
    # Given two workers that are ready, one of which ends while the machine is full
    now = 0.0
    plans = [WorkerPlan(number, cpus=frozenset(), threads=1, decoders=1, metrics_port=0) for number in (1, 2)]
    pool = Workers(settings, plans, clock=lambda: now, chance=lambda: 0.0)
    pool.start()
    for seat in pool._seats:
        pool._note_ready(seat)
    machine.full = True
    machine.started[0].popen.returncode = 1
    pool.tend()

    # When its time comes, several times over
    for _ in range(5):
        now += 60
        pool.tend()

    # Then the other one lives, and it is started once there is room
    assert [process.name for process in pool.processes] == [machine.started[1].name]
    machine.full = False
    now += 60
    pool.tend()
    assert len(pool.processes) == 2


def test_the_only_worker_is_started_again_though_it_was_ready_and_ended_between_two_looks(
    settings: Settings, machine: Machine, ledger: Ledger
) -> None:
    now = 0.0
    plan = WorkerPlan(1, cpus=frozenset(), threads=1, decoders=1, metrics_port=0)
    pool = Workers(settings, [plan], clock=lambda: now, chance=lambda: 0.0)
    pool.start()
    ledger.announce(pool._seats[0].node, {})
    machine.started[0].popen.returncode = 1
    pool.tend()
    now += 60
    pool.tend()
    assert len(pool.processes) == 1


def test_workers_of_which_none_was_ever_ready_are_given_up(settings: Settings, machine: Machine) -> None:
    plan = WorkerPlan(1, cpus=frozenset(), threads=1, decoders=1, metrics_port=0)
    pool = Workers(settings, [plan])
    pool.start()
    machine.started[0].popen.returncode = 1
    with pytest.raises(Unavailable, match="No worker could start"):
        pool.tend()
