"""Redis that dies, restarts, fills up, or is reached badly, while documents come in."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool

#: A pause of a load that does not come.
NEVER_S = 3600.0


def rounds(full: bool) -> int:
    return 6 if full else 1


def go_down(chaos: Pool, report: Report, times: int, outage: Callable[[], None]) -> None:
    """Have Redis go down under load again and again; it comes back behind each `outage`."""
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(times):
            time.sleep(chaos.random.uniform(0.5, 2))
            started = time.monotonic()
            outage()
            chaos.server.start()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
    chaos.finish(60)
    judge(chaos, report)


def test_redis_killed(pool: MakePool, seed: int, full: bool) -> None:
    chaos = pool()

    def kill() -> None:
        chaos.server.kill()
        time.sleep(chaos.random.uniform(0, 2))

    go_down(chaos, Report("kill -9 of Redis with AOF", seed), rounds(full), kill)


@pytest.mark.chaos
def test_redis_restarted(pool: MakePool, seed: int, full: bool) -> None:
    chaos = pool()
    go_down(chaos, Report("restart of Redis", seed), rounds(full), chaos.server.stop)


@pytest.mark.chaos
def test_connections_cut_off_and_slow(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("connections to Redis reset, and 20 ms late", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(5 * rounds(full)):
            time.sleep(chaos.random.uniform(0, 0.7))
            chaos.proxy.latency_s = chaos.random.choice((0.0, 0.02))
            chaos.proxy.reset()
            report.faults += 1
    chaos.proxy.latency_s = 0.0
    report.seconds = round(chaos.finish(120), 1)
    judge(chaos, report)


@pytest.mark.chaos
def test_redis_full(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("Redis full (noeviction)", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(rounds(full)):
            time.sleep(1)
            chaos.client.config_set("maxmemory", "1mb")
            chaos.refuses()
            time.sleep(chaos.random.uniform(0, 1))
            chaos.client.config_set("maxmemory", "0")
            started = time.monotonic()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
    chaos.finish(120)
    judge(chaos, report)


@pytest.mark.chaos
@pytest.mark.parametrize("pause_s", [0.05, NEVER_S])
def test_connections_that_are_silent(pause_s: float, pool: MakePool, seed: int, full: bool) -> None:
    load = "under load" if pause_s < NEVER_S else "at rest"
    chaos, report = pool(), Report(f"connections to Redis silent, {load}", seed)
    chaos.start_workers(2)
    chaos.submit()
    chaos.finish(60)
    with chaos.load(pause_s):
        for _ in range(2 if full else 1):
            time.sleep(chaos.random.uniform(0.5, 2))
            held = chaos.holders()
            with chaos.proxy.silence():
                time.sleep(chaos.settings.lease_s + 1)
            started = time.monotonic()
            job_id = chaos.submit()
            chaos.changes_hands(held, 60)
            chaos.ends(job_id)
            report.recovered(time.monotonic() - started)
    chaos.finish(120)
    judge(chaos, report)
    # A silent ledger is given up after 15 s, by a producer and then by a worker, and a silent queue after 5
    assert report.seconds < 40


@pytest.mark.chaos
def test_answers_that_are_seconds_late(pool: MakePool, seed: int, full: bool) -> None:
    chaos, report = pool(), Report("every answer of Redis 2 to 4 s late", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(3 if full else 1):
            time.sleep(0.5)
            chaos.proxy.latency_s = chaos.random.uniform(1, 2)
            time.sleep(10)
            chaos.proxy.latency_s = 0.0
            started = time.monotonic()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
    chaos.finish(120)
    judge(chaos, report)
