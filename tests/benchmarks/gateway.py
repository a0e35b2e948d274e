"""What one gateway holds, with an engine that reads nothing: `make bench-gateway`.

python -m tests.benchmarks.gateway [--seconds 8] [--rounds 3] [--parts trips,crowd,bulk,cache] [--json FILE]

A pool of its own: one Redis, one gateway process, a stand-in for the worker, and this process, which asks
(`http_load.py`), all on the machine's cores. Beside the figures stands the CPU time that each of them took: what of a
figure is the gateway's, and what its company's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from producer.embedded import Embedded, pool_of_its_own
from producer.processes import PYTHON, Process
from producer.settings import Settings, as_environment
from tests.benchmarks.http_load import Connection, Gateway, Trip, as_fast_as_possible, at_rate, get, post

DOCUMENT_BYTES = 50_000
SMALL_BYTES = 1_000
CONNECTIONS = 32
POLLERS, STREAMS = 2000, 500
BATCH = 1000
PDF = b"%PDF-1.7\n" + bytes(1000)
NOISE = b"\x89PNG\r\n\x1a\n" + os.urandom(DOCUMENT_BYTES)
#: A waiter of the crowd; longer than the benchmark.
LONG_S = 600
PARTS = ("trips", "crowd", "bulk", "cache")


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it should be."""

    name: str
    goal: float
    measured: float
    unit: str
    #: Whether more is better.
    more: bool = True

    @property
    def ratio(self) -> float:
        """At least 1 where the goal is reached."""
        return self.measured / self.goal if self.more else self.goal / self.measured


class Bench:
    """One pool, and what is measured of it."""

    def __init__(self, gateway: Gateway, processes: dict[str, int], seconds: float, rounds: int) -> None:
        self.gateway = gateway
        self.seconds, self.rounds = seconds, rounds
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}

    def cpu_s(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    async def trips(self) -> None:
        """Documents are handed in and their results fetched, as fast as it goes and at half the goal."""
        async with self.gateway.connections(CONNECTIONS) as connections:
            await as_fast_as_possible(connections, round_trip, 2)
            rate = await self._fastest(connections, round_trip, "a round trip")
            tails, middles = [], []
            for _ in range(self.rounds):
                took = await at_rate(connections, round_trip, self.seconds, 200)
                tails.append(1000 * statistics.quantiles(took, n=100)[98])
                middles.append(1000 * statistics.median(took))
            in_one = await self._fastest(connections, one_call, "POST /ocr")
        self.figures.append(Figure("submit and fetch, 50 KB images", 400, rate, "/s"))
        self.figures.append(Figure("the same in one request, POST /ocr", 400, in_one, "/s"))
        self.figures.append(Figure("p99 at 200/s", 50, statistics.median(tails), "ms", more=False))
        self.notes.append(f"median at 200/s {statistics.median(middles):.1f} ms")

    async def _fastest(self, connections: list[Connection], trip: Trip, name: str) -> float:
        """Trips a second; notes what CPU time one takes."""
        rates, costs = [], []
        for _ in range(self.rounds):
            before = self.cpu_s()
            rates.append(await as_fast_as_possible(connections, trip, self.seconds))
            made = rates[-1] * self.seconds
            costs.append({part: 1000 * (now - before[part]) / made for part, now in self.cpu_s().items()})
        each = {part: statistics.median(cost[part] for cost in costs) for part in costs[0]}
        told = ", ".join(f"{part} {cost:.2f}" for part, cost in each.items())
        self.notes.append(f"CPU of {name}, ms: {told}; together {sum(each.values()):.2f}")
        return statistics.median(rates)

    async def crowd(self) -> None:
        """Submissions while nobody waits, and while a crowd does, in turns."""
        alone: list[float] = []
        beside: list[float] = []
        async with self.gateway.connections(CONNECTIONS) as connections:
            jobs = [await accepted(connections[0], PDF) for _ in range(STREAMS)]
            for _ in range(self.rounds):
                alone.append(await as_fast_as_possible(connections, hand_in, self.seconds / 2))
                crowd = [await self.gateway.connect() for _ in range(POLLERS + STREAMS)]
                waiting = [
                    waiter.begin(get(f"/v1/jobs/{jobs[number % STREAMS]}?wait={LONG_S}"))
                    for number, waiter in enumerate(crowd[:POLLERS])
                ]
                for job, waiter in zip(jobs, crowd[POLLERS:], strict=True):
                    assert await waiter.stream(get(f"/v1/jobs/{job}/events")) == 200
                beside.append(await as_fast_as_possible(connections, hand_in, self.seconds / 2))
                assert not any(answer.done() for answer in waiting), "a long-poll did not last"
                for waiter in crowd:
                    waiter.transport.close()
                with suppress(ConnectionError):
                    await asyncio.gather(*waiting)
                await asyncio.sleep(1)
        ratios = [with_it / without for with_it, without in zip(beside, alone, strict=True)]
        name = f"submissions beside {POLLERS:,} long-polls and {STREAMS} streams / alone"
        self.figures.append(Figure(name, 0.8, statistics.median(ratios), ""))
        self.notes.append(
            f"submissions alone {statistics.median(alone):.0f}/s, beside the crowd {statistics.median(beside):.0f}/s"
        )

    async def bulk(self) -> None:
        """Batches of small documents."""
        rates = []
        connection = await self.gateway.connect()
        loop = asyncio.get_running_loop()
        for _ in range(max(3, self.rounds)):
            documents = [unlike(SMALL_BYTES) for _ in range(BATCH)]
            began = loop.time()
            answer = await connection.ask(*post("/v1/batches", documents))
            rates.append(BATCH / (loop.time() - began))
            assert answer.status == 202, answer.body
            assert json.loads(answer.body)["accepted"] == BATCH
        self.figures.append(
            Figure(f"bulk admission, {BATCH:,} documents of 1 KB", 1500, statistics.median(rates), "/s")
        )

    async def cache(self) -> None:
        """One document again and again, one at a time: `POST /ocr` answers what was read of it before."""
        connection = await self.gateway.connect()
        document, took = unlike(DOCUMENT_BYTES), []
        loop = asyncio.get_running_loop()
        for _ in range(400):
            began = loop.time()
            answer = await connection.ask(*post("/ocr", [document]))
            took.append(1000 * (loop.time() - began))
            assert answer.status == 200, answer.body
        assert json.loads(answer.body)["result"]["pages"][0]["cached"]
        self.figures.append(Figure("a cache hit, median", 5, statistics.median(took[1:]), "ms", more=False))


def unlike(size_bytes: int) -> bytes:
    """A PNG, by its first bytes, like no other."""
    return NOISE[: size_bytes - 16] + secrets.token_bytes(16)


async def accepted(connection: Connection, document: bytes) -> str:
    answer = await connection.ask(*post("/v1/jobs", [document]))
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["id"])


async def hand_in(connection: Connection) -> None:
    await accepted(connection, unlike(DOCUMENT_BYTES))


async def round_trip(connection: Connection) -> None:
    answer = await connection.ask(*post("/v1/jobs", [unlike(DOCUMENT_BYTES)], "Prefer: wait=30"))
    job = json.loads(answer.body)
    if answer.status == 202:
        answer = await connection.ask(get(f"/v1/jobs/{job['id']}?wait=30"))
    answer = await connection.ask(get(f"/v1/jobs/{job['id']}/result"))
    assert answer.status == 200, answer.body


async def one_call(connection: Connection) -> None:
    answer = await connection.ask(*post("/ocr", [unlike(DOCUMENT_BYTES)]))
    assert answer.status == 200, answer.body


async def measure(url: str, processes: dict[str, int], options: argparse.Namespace) -> Bench:
    bench = Bench(Gateway(url), processes, options.seconds, options.rounds)
    for part in options.parts.split(","):
        await getattr(bench, part)()
    return bench


def show(bench: Bench, to: Path | None) -> None:
    table = Table("figure", "goal", "measured", "ratio", title="One gateway process")
    for one in bench.figures:
        goal = f"{'at least' if one.more else 'at most'} {one.goal:g} {one.unit}"
        table.add_row(one.name, goal, f"{one.measured:.1f} {one.unit}", f"{one.ratio:.2f}")
    Console(width=120).print(table)
    print(*bench.notes, sep="\n")
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        figures = [{**asdict(one), "ratio": one.ratio} for one in bench.figures]
        to.write_text(json.dumps({"cores": os.cpu_count(), "figures": figures, "notes": bench.notes}, indent=2) + "\n")


def start_engine(pool: Embedded, settings: Settings) -> Process:
    command = [*PYTHON, "-m", "tests.benchmarks.null_engine"]
    return Process("null engine", command, pool.log_dir / "engine.log", as_environment(settings))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="that a round of one figure takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path, default=Path("bench-results/gateway.json"))
    options = parser.parse_args(arguments)
    settings = Settings(
        gateway_port=0, gateway_requests=10_000, max_wait_s=LONG_S, max_queued_jobs=1_000_000, result_ttl_s=600
    )
    with pool_of_its_own(settings) as (pool, own):
        pool.settings = own
        pool.start_redis()
        url = pool.start_gateway()
        engine = start_engine(pool, own)
        try:
            pids = {process.name: process.popen.pid for process in [*pool.processes, engine]}
            bench = uvloop.run(measure(url, {**pids, "load": os.getpid()}, options))
        finally:
            engine.kill()
    show(bench, options.json)


if __name__ == "__main__":
    main(sys.argv[1:])
