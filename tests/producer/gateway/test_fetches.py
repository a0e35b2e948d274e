"""Who has a place for a fetch, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from producer.errors import Unavailable
from producer.gateway.fetches import Fetches

PLACES = 8  # of which an origin has two at most, a tenant four


class Places:
    """Requests that hold their place until they are let go."""

    def __init__(self, patience_s: float = 60) -> None:
        self.fetches = Fetches(PLACES, patience_s=patience_s)
        self.fetched: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._leaves: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, origin: str, tenant: str | None = None) -> None:
        self._ends[name], self._leaves[name] = asyncio.Event(), asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name, origin, tenant))
        await settled()

    async def _hold(self, name: str, origin: str, tenant: str | None) -> None:
        async def left() -> None:
            await self._leaves[name].wait()

        async with self.fetches.place(origin, tenant, left):
            self.fetched.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await settled()

    async def leave(self, name: str) -> None:
        self._leaves[name].set()
        await self.told(name)

    async def told(self, name: str) -> None:
        """Raise what ended the wait."""
        await self._tasks[name]

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._tasks[name]

    async def end_all(self) -> None:
        for end in self._ends.values():
            end.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        assert self.fetches.waiting == 0


async def settled() -> None:
    """Let all tasks come as far as they do."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


def test_a_site_has_a_quarter_and_the_next_of_it_comes_when_one_has_ended() -> None:
    async def test() -> None:
        places = Places()
        for number in range(1, 5):
            await places.ask(f"slow {number}", "slow")
        await places.ask("other", "other")
        assert places.fetched == ["slow 1", "slow 2", "other"]
        await places.end("other")
        assert places.fetched[3:] == []
        await places.end("slow 2")
        assert places.fetched[3:] == ["slow 3"]
        await places.end_all()
        assert places.fetched[4:] == ["slow 4"]

    run(test())


def test_a_tenant_has_half_over_all_sites_and_nobody_in_particular_has_all() -> None:
    async def test() -> None:
        places = Places()
        for number in range(6):
            await places.ask(f"a {number}", f"site {number}", "a")
            await places.ask(f"nobody {number}", f"other site {number}")
        assert places.fetched.count("a 3") == 1
        assert [name for name in places.fetched if name.startswith("a")] == ["a 0", "a 1", "a 2", "a 3"]
        assert len(places.fetched) == PLACES
        # Who came first has the place that comes free, unless its share is used up
        await places.end("nobody 0")
        assert places.fetched[-1] == "nobody 4"
        await places.end("a 0")
        assert places.fetched[-1] == "a 4"
        await places.end_all()

    run(test())


@pytest.mark.parametrize(
    ("held", "asked", "sentence"),
    [
        ([("slow:443", "a")] * 2, ("slow:443", "b"), "2 documents from slow:443 already"),
        ([(f"site {number}", "a") for number in range(4)], ("fast", "a"), "4 documents for this tenant already"),
        ([(f"site {number}", None) for number in range(8)], ("fast", None), "fetches 8 documents already"),
    ],
    ids=["origin", "tenant", "all"],
)
def test_who_waits_too_long_is_told_why(
    held: list[tuple[str, str | None]], asked: tuple[str, str | None], sentence: str
) -> None:
    async def test() -> None:
        places = Places(patience_s=0.01)
        for number, (origin, tenant) in enumerate(held):
            await places.ask(str(number), origin, tenant)
        await places.ask("late", *asked)
        with pytest.raises(Unavailable, match=sentence):
            await places.told("late")
        assert places.fetches.waiting == 0
        await places.end_all()

    run(test())


def test_who_leaves_or_is_cancelled_gives_its_turn_to_the_next() -> None:
    async def test() -> None:
        places = Places()
        for number in range(6):
            await places.ask(str(number), "slow")
        with pytest.raises(ClientDisconnect):
            await places.leave("2")
        await places.cancel("3")
        await places.end("0")
        assert places.fetched == ["0", "1", "4"]
        await places.cancel("1")
        await settled()
        assert places.fetched == ["0", "1", "4", "5"]
        await places.end_all()

    run(test())
