"""What a process and a namespace take up, and whether that grows beyond a warm-up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import psutil
import redis

Sizes = Mapping[str, float]

#: The part of the samples that may rise: pools of connections and of threads fill up to the most that were needed at a
#: time, and keep them.
WARM_UP = 1 / 3
#: Looks of one sample, and the pause between two, in seconds: what is there in all of them has come to stay.
LOOKS, LOOK_S = 4, 0.25
#: A rise over all samples behind the warm-up that is still flat: a number, or a share of what is there if that is more.
#: Pools of connections fill up on: a worker's threads have 8 for messages, of three files each, and some 26 for the
#: ledger, and seldom need all at a time. What leaks a file at every third fault is more than that in half an hour.
ALLOWED = {"memory_mb": (4, 0.05), "files": (16, 0), "threads": (1, 0), "keys": (1, 0)}


@dataclass
class Footprint:
    """One long-lived thing, sampled in quiet moments."""

    name: str
    samples: list[Sizes] = field(default_factory=list)

    def told(self) -> str:
        """The last sample, for whoever follows the run."""
        return f"{self.name}: " + " ".join(f"{size} {value:.0f}" for size, value in self.samples[-1].items())

    def rises(self) -> dict[str, float]:
        """By how much each size rises over the samples behind the warm-up."""
        behind = self._behind()
        return {size: rise([sample[size] for sample in behind]) for size in behind[0]}

    def growth(self) -> dict[str, float]:
        """The rises that are more than allowed."""
        start = self._behind()[0]
        return {size: by for size, by in self.rises().items() if by > allowed(size, start[size])}

    def _behind(self) -> list[Sizes]:
        return self.samples[round(len(self.samples) * WARM_UP) :]


def allowed(size: str, start: float) -> float:
    number, share = ALLOWED[size]
    return max(number, share * start)


def rise(values: Sequence[float]) -> float:
    """The slope's Theil-Sen estimate times the number of steps: steps of a leak add up, one late step does not."""
    slopes = [(later - earlier) / (b - a) for (a, earlier), (b, later) in combinations(enumerate(values), 2)]
    return median(slopes) * (len(values) - 1) if slopes else 0.0


def of_process(pid: int) -> Sizes:
    """The least of a few looks."""
    process = psutil.Process(pid)
    looks = []
    for _ in range(LOOKS):
        looks.append((process.memory_info().rss / (1 << 20), process.num_fds(), process.num_threads()))
        time.sleep(LOOK_S)
    return dict(zip(("memory_mb", "files", "threads"), map(min, zip(*looks, strict=True)), strict=True))


def of_keys(client: redis.Redis, namespace: str) -> Sizes:
    """Keys that do not go by themselves, and what is in those that are collections; but for dead letters, blobs and
    lists of jobs, of which there are as many as there were documents."""
    of_documents = tuple(f"{namespace}:{kind}".encode() for kind in ("dead", "garbage", "index:"))
    keys = [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1 and not key.startswith(of_documents)]
    return {"keys": sum(_members(client, key) for key in keys)}


def _members(client: redis.Redis, key: bytes) -> int:
    match client.type(key):
        case b"set":
            return int(client.scard(key))
        case b"zset":
            return int(client.zcard(key))
        case b"hash":
            return int(client.hlen(key))
        case b"list":
            return int(client.llen(key))
    return 1
