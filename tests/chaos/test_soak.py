"""A pool at work for half an hour, with one fault after the other: nothing is lost, and nothing grows."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

from producer.embedded import Embedded
from producer.job import JobState
from tests.chaos.footprint import Footprint, of_keys, of_process
from tests.chaos.oracle import Report, all_results, judge
from tests.chaos.pool import Pool
from tests.chaos.traffic import BAD_NAME, Traffic

SOAK_S = float(os.environ.get("SOAK_S", "1800"))
FAULT_EVERY_S = 20.0
#: The share of that time in which documents come; what is left is quiet.
LOAD = 0.8


class Faults:
    """Each ends once the pool reads on. The first worker is spared what replaces a worker, so that it can grow old."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._random = random.Random(seed)
        self.elder = pool.worker_pids()[0]

    def draw(self) -> str:
        """Do one of them, and tell which."""
        fault = self._random.choice(
            (
                self.kill_worker,
                self.terminate_worker,
                self.freeze_worker,
                self.kill_redis,
                self.restart_redis,
                self.reset_connections,
                self.delay_connections,
                self.fill_redis,
            )
        )
        fault()
        self._pool.goes_on()
        self._pool.is_whole()
        return fault.__name__

    def kill_worker(self) -> None:
        pid = self._younger()
        self._pool.kill(pid)
        self._pool.comes_back_without(pid)

    def terminate_worker(self) -> None:
        pid = self._younger()
        os.kill(pid, signal.SIGTERM)
        self._pool.comes_back_without(pid)

    def _younger(self) -> int:
        (pid,) = set(self._pool.worker_pids()) - {self.elder}
        return pid

    def freeze_worker(self) -> None:
        pid = self._random.choice(self._pool.worker_pids())
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._pool.settings.lease_s + 1)
        os.kill(pid, signal.SIGCONT)

    def kill_redis(self) -> None:
        self._pool.server.kill()
        time.sleep(self._random.uniform(0, 2))
        self._pool.server.start()

    def restart_redis(self) -> None:
        self._pool.server.stop()
        self._pool.server.start()

    def reset_connections(self) -> None:
        for _ in range(5):
            self._pool.proxy.reset()
            time.sleep(self._random.uniform(0, 0.7))

    def delay_connections(self) -> None:
        self._pool.proxy.latency_s = 0.02
        time.sleep(3)
        self._pool.proxy.latency_s = 0.0

    def fill_redis(self) -> None:
        self._pool.client.config_set("maxmemory", "1mb")
        self._pool.refuses()
        self._pool.client.config_set("maxmemory", "0")


@pytest.mark.soak
def test_nothing_is_lost_and_nothing_grows(pool: Callable[..., Pool], seed: int) -> None:
    chaos, report = pool(gateway_port=0, max_queued_jobs=1_000_000), Report(f"soak of {SOAK_S:g} s", seed)
    chaos.start_workers(2)
    with Embedded(chaos.settings) as front:
        traffic = Traffic(chaos, front.start_gateway(), seed)
        (gateway,) = (process.popen.pid for process in front.processes)
        faults = Faults(chaos, seed)
        olds = {faults.elder: Footprint("worker"), gateway: Footprint("gateway")}
        keys = Footprint("redis")
        end = time.monotonic() + SOAK_S
        while time.monotonic() < end:
            started = time.monotonic()
            with traffic.flows():
                time.sleep(chaos.random.uniform(0, FAULT_EVERY_S / 4))
                struck = time.monotonic()
                fault = faults.draw()
                report.recovered(time.monotonic() - struck)
                time.sleep(max(0.0, started + FAULT_EVERY_S * LOAD - time.monotonic()))
            chaos.finish(60)
            for pid, footprint in olds.items():
                footprint.samples.append(of_process(pid))
            keys.samples.append(of_keys(chaos.client, chaos.settings.namespace))
            print(f"{fault:20}", *(footprint.told() for footprint in (*olds.values(), keys)))
            time.sleep(max(0.0, started + FAULT_EVERY_S - time.monotonic()))
        assert faults.elder in chaos.worker_pids()
        traffic.close()
    judge(chaos, report, but=unread_as_they_should(chaos, traffic))
    show((*olds.values(), keys))
    assert not {footprint.name: grown for footprint in (*olds.values(), keys) if (grown := footprint.growth())}


def unread_as_they_should(chaos: Pool, traffic: Traffic) -> int:
    """How many jobs ended otherwise than read, all of which had to or could."""
    unread = [result for result in all_results(chaos)[0].values() if result.state is not JobState.SUCCEEDED]
    cancelled = {result.id for result in unread if result.state is JobState.CANCELLED}
    assert cancelled <= traffic.cancelled
    failed = {result.id for result in unread} - cancelled
    ledger = chaos.ledger
    assert failed >= traffic.bad
    for job_id in failed:
        error = ledger.status(job_id).error
        assert (ledger.job(job_id).name, error and error.code) == (BAD_NAME, "corrupt_document")
    return len(unread)


def show(footprints: tuple[Footprint, ...]) -> None:
    table = Table("of", "what", "first", "middle", "last", "rise", title="Footprints in quiet moments")
    for footprint in footprints:
        first, middle, last = (footprint.samples[at] for at in (0, len(footprint.samples) // 2, -1))
        for size, by in footprint.rises().items():
            row = (f"{sample[size]:.0f}" for sample in (first, middle, last))
            table.add_row(footprint.name, size, *row, f"{by:+.1f}")
    Console(width=100).print(table)
