"""Clocks that jump by an hour while documents come in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool
from tests.redis_server import Server

HOUR_S = 3600
JUMPING_WORKER = str(Path(__file__).parents[1] / "jumping_worker.py")


class Clock:
    """How far ahead of the machine's a process's wall clock is, for that process to look up in `file`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.step_to(0)

    def step_to(self, ahead_s: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self.file)

    def under_a_server(self) -> dict[str, str]:
        """The environment that brings it about; skips the test where libfaketime is not installed."""
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        if library is None:
            pytest.skip("libfaketime moves the server's clock; Debian's package `faketime` has it")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "ahead")


def jump(chaos: Pool, report: Report, clock: Clock, times: int) -> None:
    """Step forward and back under load, and see that no page is read a second time for it.

    A lease apart: holders are given time to renew after a step forward, and not again before they have done so.
    """
    with chaos.load():
        for _ in range(times):
            for ahead_s in (HOUR_S, 0, -HOUR_S, 0):
                time.sleep(chaos.settings.lease_s + chaos.random.uniform(0.5, 2))
                clock.step_to(ahead_s)
                started = time.monotonic()
                chaos.goes_on()
                report.recovered(time.monotonic() - started)
    chaos.finish(60)
    chaos.witness.catch_up()
    assert chaos.witness.read_again == 0


@pytest.mark.chaos
def test_the_clock_of_redis_jumps(pool: MakePool, tmp_path: Path, clock: Clock, seed: int, full: bool) -> None:
    chaos, report = pool(Server(tmp_path, clock.under_a_server())), Report("Redis' clock jumps by an hour", seed)
    chaos.start_workers(2)
    jump(chaos, report, clock, 2 if full else 1)

    # And whoever dies after a step back is missed as soon as ever
    with chaos.load():
        time.sleep(1)
        clock.step_to(-HOUR_S)
        chaos.goes_on()
        report.recovered(chaos.kill(chaos.worker_pids()[0]))
        clock.step_to(0)
    chaos.finish(60)
    judge(chaos, report)


@pytest.mark.chaos
def test_the_clocks_of_the_workers_jump(pool: MakePool, clock: Clock, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("the workers' clocks jump by an hour", seed)
    chaos.start_workers(2, JUMPING_WORKER, str(clock.file))
    jump(chaos, report, clock, 2 if full else 1)
    judge(chaos, report)
