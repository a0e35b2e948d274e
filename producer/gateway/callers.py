"""Who calls: a request's API key, its tenant, and how fast that may ask."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from producer.api_keys import USE_KNOWN_TO_S, ApiKeys
from producer.errors import QuotaExceeded, Unauthorized
from producer.gateway.async_producer import AsyncProducer
from producer.gateway.guesses import Guesses
from producer.job import Tenant
from producer.limits import Limits
from producer.settings import Settings
from producer.tenants import Tenants

#: Seconds until a revoked key is refused, and changed limits hold.
FRESH_S = 2.0
#: Good keys that are remembered.
KEYS = 10_000


@dataclass(frozen=True)
class Caller:
    """Who asks, and the settings that hold for that tenant's requests."""

    tenant: Tenant
    settings: Settings
    max_requests_per_s: float = 0


@dataclass
class _Known:
    """A key that was good when it was last looked up."""

    caller: Caller
    fresh_until: float
    noted_at: float


class Callers:
    """Identifies callers. Lives on one event loop."""

    def __init__(
        self, settings: Settings, producer: AsyncProducer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._keys, self._tenants = ApiKeys(producer.producer.ledger), Tenants(producer.producer.ledger)
        self._clock = clock
        self._guesses = Guesses(clock)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        #: When each tenant may ask without haste again.
        self._free_at: dict[Tenant, float] = {}

    async def identify(self, key: str | None, address: str) -> Caller:
        """Whose request it is.

        Args:
            key: The bearer token of the request, if it has one.
            address: Where it comes from.

        Raises:
            Unauthorized: keys are asked for, and this is none.
            QuotaExceeded: the tenant asks too often, or too many wrong keys came from that address.
            Unavailable: the keys cannot be read.
        """
        if not self._settings.asks_for_keys:
            return Caller("", self._settings)
        if key is None:
            raise Unauthorized("Send an API key as `Authorization: Bearer KEY`.")
        digest = hashlib.sha256(key.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            async with self._guesses.slowed(address):
                known = await self._look_up(key, digest, address, noted_at=-math.inf)
        elif known.fresh_until < self._clock():
            known = await self._look_up(key, digest, address, known.noted_at)
        self._slow_down(known.caller)
        return known.caller

    async def _look_up(self, key: str, digest: bytes, address: str, noted_at: float) -> _Known:
        now = self._clock()
        caller = await self._producer.call(partial(self._find, key, note=now - noted_at >= USE_KNOWN_TO_S))
        if caller is None:
            self._known.pop(digest, None)
            self._guesses.failed(address)
            raise Unauthorized("This API key is not known, or was revoked.")
        noted_at = now if now - noted_at >= USE_KNOWN_TO_S else noted_at
        known = self._known[digest] = _Known(caller, now + FRESH_S, noted_at)
        self._known.move_to_end(digest)
        if len(self._known) > KEYS:
            self._known.popitem(last=False)
        return known

    def _find(self, key: str, *, note: bool) -> Caller | None:
        """Blocks."""
        found = self._keys.find(key)
        if found is None:
            return None
        if note:
            self._keys.used(found)
        settings = self._settings
        limits = self._tenants.limits(found.tenant).over(Limits.of_all(settings))
        if limits.max_document_bytes and limits.max_document_bytes < settings.max_document_bytes:
            settings = settings.model_copy(update={"max_document_bytes": limits.max_document_bytes})
        return Caller(found.tenant, settings, limits.max_requests_per_s or 0)

    def _slow_down(self, caller: Caller) -> None:
        """Documents are counted over the whole pool as well, when they are accepted."""
        rate = caller.max_requests_per_s
        if not rate:
            return
        now = self._clock()
        free_at = max(now, self._free_at.get(caller.tenant, now))
        early_s = free_at - now - (max(1.0, rate) - 1) / rate
        if early_s > 0:
            raise QuotaExceeded(
                f"max_requests_per_s: the tenant may ask {rate:g} times a second.", retry_after_s=math.ceil(early_s)
            )
        self._free_at[caller.tenant] = free_at + 1 / rate
