"""Pages whose pixels were read a while ago, or are being read in this process: nobody reads them a second time.

flight    the same page is being read here: wait for its result; if it has none, one of those that wait is the next
ledger    it was read for an earlier job, by a worker that reads as this one does
passage   neither: read it; `Ledger.finish_page` notes it under its pixels once its outcome is recorded
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import structlog
from blake3 import blake3

from producer.caching import page_digest
from producer.errors import Cancelled, DeadlineExceeded, Unavailable
from producer.job import Job, PageResult, Timings
from producer.ledger import Ledger
from producer.room import Room
from producer.scripts import reachable
from producer.settings import Settings
from worker import metrics
from worker.engines import Engine, Passage
from worker.rasterise import Raster

log = structlog.get_logger(__name__)

#: Caching ends so much before the pool takes no more jobs.
ROOM_PERCENT = 10
#: Who waits for another page looks this often whether its own job has ended.
LOOK_S = 0.5


def manner(engine: Engine, settings: Settings) -> str:
    """A digest of all that decides how this worker reads a page, other than the page and its options."""
    deciding = {
        "detector_sizes",
        "jpeg_decode",
        "pdf_dpi",
        "preprocess",
        "recogniser_widths",
    }
    parts = [version("ocrpool"), engine.name, engine.model, settings.model_dump(mode="json", include=deciding)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Read:
    """A page's result, and what it may be noted under: a digest of its pixels, or nothing."""

    result: PageResult
    pixels: str = ""


class _Flight:
    """Pages with the same pixels, each in a thread of its own. One of them, the leader, is read; if that has no result,
    another one leads."""

    def __init__(self, lock: threading.Lock) -> None:
        self.aboard = 0
        self._changed = threading.Condition(lock)
        self._leader: int | None = None
        self._result: PageResult | None = None

    @property
    def has_landed(self) -> bool:
        return self._result is not None

    def take_lead(self) -> bool:
        """Whether the caller's page is the one to be read."""
        with self._changed:
            return self._took_lead()

    def _took_lead(self) -> bool:
        is_free = self._leader is None and self._result is None
        if is_free:
            self._leader = threading.get_ident()
        return is_free

    def give_up_lead(self) -> None:
        """If it is the caller's, who holds the lock."""
        if self._leader == threading.get_ident():
            self._leader = None
            self._changed.notify_all()

    def land(self, result: PageResult) -> None:
        with self._changed:
            self._result = result
            self._changed.notify_all()

    def landed(self, deadline: float, cancelled: Callable[[], bool]) -> PageResult | None:
        """The leader's result, once it has one; None where the caller's page leads now."""
        with self._changed:
            while self._result is None and not self._took_lead():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded
                if cancelled():
                    raise Cancelled
                self._changed.wait(min(left_s, LOOK_S))
            return self._result


class PageCache:
    """The cache of one worker. Safe to share between threads."""

    def __init__(self, ledger: Ledger, settings: Settings, reader: str) -> None:
        self._ledger = ledger
        self._settings = settings
        self._reader = reader
        self._room = Room(ledger.redis, min(100, settings.redis_reserve_percent + ROOM_PERCENT))
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._lock = threading.Lock()

    @property
    def reader(self) -> str:
        """How the ledger shall note that pages are read; nothing if it shall not."""
        return self._reader if self._settings.cache_ttl_s and self._has_room() else ""

    def read(
        self,
        job: Job,
        page: int,
        raster: Raster,
        passage: Passage,
        rasterise_ms: float,
        *,
        deadline: float,
        cancelled: Callable[[], bool],
    ) -> Read:
        """The page's result: `passage.read`, or what the same pixels have brought. `deadline` is on `time.monotonic`'s.

        Raises:
            what `passage.read` raises.
        """
        pixels: Any = raster.pixels
        if not self._settings.cache_ttl_s or not isinstance(pixels, np.ndarray):  # on a card
            return Read(passage.read(page, raster, rasterise_ms))
        started = time.perf_counter()
        digest = page_digest(
            blake3(pixels.data).hexdigest(), (raster.width, raster.height), job.options, job.tenant, self._reader
        )
        hashed_ms = 1000 * (time.perf_counter() - started)
        if not job.options.cache:
            return self._noted(digest, passage.read(page, raster, rasterise_ms + hashed_ms))

        def same(found: PageResult, outcome: str) -> Read:
            metrics.CACHE_PAGES.labels(outcome).inc()
            metrics.CACHE_BYTES.inc(pixels.nbytes)
            return Read(_again(found, page, raster, rasterise_ms + 1000 * (time.perf_counter() - started)))

        with self._flight((digest, job.options.lane.value)) as flight:
            if not flight.take_lead():
                passage.step_aside()
                found = flight.landed(deadline, cancelled)
                if found is not None:
                    return same(found, "joined")
            found = self._known(digest)
            if found is not None:
                flight.land(found)
                return same(found, "hit")
            result = passage.read(page, raster, rasterise_ms + hashed_ms)
            flight.land(result)
            metrics.CACHE_PAGES.labels("missed").inc()
            return self._noted(digest, result)

    @contextmanager
    def _flight(self, key: tuple[str, str]) -> Iterator[_Flight]:
        """The pages with this key that are on their way, the caller's among them. Jobs of another lane do not wait for
        them: they may be slow ones."""
        with self._lock:
            flight = self._flights.setdefault(key, _Flight(self._lock))
            flight.aboard += 1
        try:
            yield flight
        finally:
            with self._lock:
                flight.aboard -= 1
                flight.give_up_lead()
                if self._flights.get(key) is flight and (flight.has_landed or not flight.aboard):
                    del self._flights[key]

    def _known(self, digest: str) -> PageResult | None:
        try:
            outcome = self._ledger.recall_page(digest)
        except Unavailable as error:
            log.warning("cache.not_asked", error=str(error))
            return None
        return None if outcome is None else PageResult.model_validate_json(outcome)

    def _noted(self, digest: str, result: PageResult) -> Read:
        fits = len(result.model_dump_json()) <= self._settings.cache_max_bytes
        return Read(result, digest if fits and self._has_room() else "")

    def _has_room(self) -> bool:
        try:
            with reachable():
                self._room.check()
        except Unavailable:
            return False
        return True


def _again(found: PageResult, page: int, raster: Raster, took_ms: float) -> PageResult:
    """What was found, as the result of this page: of the other one's, only what its pixels have brought."""
    return PageResult(
        page=page,
        width=raster.width,
        height=raster.height,
        angle=raster.angle,  # another document may have the same pixels turned otherwise
        lines=found.lines,
        text=found.text,
        engine=found.engine,
        model=found.model,
        cached=True,
        timings=Timings(rasterise_ms=round(took_ms, 3), detect_ms=0, recognise_ms=0),
    )
