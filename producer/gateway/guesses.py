"""Slows down who tries out API keys, and nobody else: a key that has been good here never waits."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from producer.errors import QuotaExceeded

#: Wrong keys of one address that cost it nothing.
FREE = 10
#: The first wait after them, which doubles with each wrong key, and the longest, in seconds.
WAIT_S = (0.1, 5.0)
#: Requests of one address that wait at a time; more are refused unseen.
WAITING = 4
#: An address without a wrong key for so many seconds is forgotten, and so is the oldest of this many.
FORGET_S, ADDRESSES = 600, 10_000


@dataclass
class _Guesser:
    failures: int = 0
    failed_at: float = 0.0
    waiting: int = 0


class Guesses:
    """What wrong keys came from where. Lives on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long a key from there waits until it is looked at."""
        guesser = self._guessers.get(_network(address))
        if guesser is None or guesser.failures <= FREE or self._clock() - guesser.failed_at > FORGET_S:
            return 0.0
        first, longest = WAIT_S
        return min(longest, first * 2.0 ** min(30, guesser.failures - FREE - 1))

    @asynccontextmanager
    async def slowed(self, address: str) -> AsyncIterator[None]:
        """Look at a key from there inside this context.

        Raises:
            QuotaExceeded: so many of that address wait that this one is not looked at.
        """
        wait_s = self.wait_s(address)
        if not wait_s:
            yield
            return
        guesser = self._guessers[_network(address)]
        if guesser.waiting >= WAITING:
            raise QuotaExceeded("Too many wrong API keys came from this address.", retry_after_s=math.ceil(wait_s))
        guesser.waiting += 1
        try:
            await asyncio.sleep(wait_s)
            yield
        finally:
            guesser.waiting -= 1

    def failed(self, address: str) -> None:
        """A wrong key came from there."""
        network, now = _network(address), self._clock()
        guesser = self._guessers.setdefault(network, _Guesser())
        if now - guesser.failed_at > FORGET_S:
            guesser.failures = 0
        guesser.failures += 1
        guesser.failed_at = now
        self._guessers.move_to_end(network)
        if len(self._guessers) > ADDRESSES:
            self._guessers.popitem(last=False)


def _network(address: str) -> str:
    """Of an IPv6 address, the /64 that one customer has to itself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
