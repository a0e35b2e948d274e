"""Places for documents that are fetched: shared out, so that slow sites keep them from nobody else for long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from producer.errors import Unavailable
from producer.job import Tenant

#: Documents that a gateway fetches at a time, each in a thread.
PLACES = 32
#: One site has a quarter of the places at most, one tenant half.
OF_ORIGIN, OF_TENANT = 4, 2
#: Longest wait for a place, in seconds: a proxy may give up, and a client asks again.
PATIENCE_S = 5.0

#: Who holds a place: a site or a tenant.
Holder = tuple[str, str]


@dataclass(eq=False)
class _Asker:
    """One that waits for a place, and the places that each of those may have who would hold it."""

    shares: Mapping[Holder, int]
    admitted: asyncio.Future[None]


class Fetches:
    """Lives on one event loop. Who came first has the first place that is free and of whose share something is left."""

    def __init__(self, places: int = PLACES, *, patience_s: float = PATIENCE_S) -> None:
        self._places = places
        self.patience_s = patience_s
        self._taken = 0
        self._held: Counter[Holder] = Counter()
        self._waiting: list[_Asker] = []

    @property
    def waiting(self) -> int:
        """Requests that wait for a place at this moment."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(
        self, origin: str, tenant: Tenant | None, left: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """A place for as long as the context lasts.

        Args:
            origin: The site that the document is fetched from.
            tenant: Whose document it is; None where nobody says who they are.
            left: Returns once the client has gone, who then waits no longer.

        Raises:
            Unavailable: there was none in time.
            ClientDisconnect: the client has gone meanwhile.
        """
        shares = {("origin", origin): max(1, self._places // OF_ORIGIN)}
        if tenant is not None:
            shares["tenant", tenant] = max(1, self._places // OF_TENANT)
        asker = _Asker(shares, asyncio.get_running_loop().create_future())
        self._waiting.append(asker)
        try:
            self._admit()
            if not asker.admitted.done():
                await self._wait(asker, left)
            yield
        finally:
            if asker.admitted.done():
                self._taken -= 1
                self._held.subtract(shares.keys())
                self._held += Counter()  # Forgets who holds none.
                self._admit()
            else:
                self._waiting.remove(asker)

    async def _wait(self, asker: _Asker, left: Callable[[], Awaitable[None]]) -> None:
        gone = asyncio.ensure_future(left())
        try:
            await asyncio.wait([asker.admitted, gone], timeout=self.patience_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientDisconnect
        finally:
            gone.cancel()
        if not asker.admitted.done():
            raise Unavailable(self._refusal(asker))

    def _admit(self) -> None:
        for asker in list(self._waiting):
            if self._taken == self._places:
                break
            if self._exhausted(asker) is None:
                self._waiting.remove(asker)
                self._taken += 1
                self._held.update(asker.shares.keys())
                asker.admitted.set_result(None)

    def _exhausted(self, asker: _Asker) -> Holder | None:
        """Of whose share nothing is left."""
        return next((holder for holder, most in asker.shares.items() if self._held[holder] >= most), None)

    def _refusal(self, asker: _Asker) -> str:
        holder = self._exhausted(asker)
        if holder is None:
            return f"The gateway fetches {self._places} documents already, the most at a time."
        whose = f"from {holder[1]}" if holder[0] == "origin" else "for this tenant"
        return f"The gateway fetches {asker.shares[holder]} documents {whose} already, the most at a time."
