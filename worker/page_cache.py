"""Pages whose pixels were read a while ago, or are being read in this process: nobody reads them a second time.

flight    the same page is being read here: wait for its result, or read it after all if that fails
ledger    it was read for an earlier job, by a worker that reads as this one does
passage   neither: read it; `Ledger.finish_page` notes it under its pixels once its outcome is recorded
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
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


class PageCache:
    """The cache of one worker. Safe to share between threads."""

    def __init__(self, ledger: Ledger, settings: Settings, reader: str) -> None:
        self._ledger = ledger
        self._settings = settings
        self._reader = reader
        self._room = Room(ledger.redis, min(100, settings.redis_reserve_percent + ROOM_PERCENT))
        self._flights: dict[tuple[str, str], Future[PageResult]] = {}
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

        with self._flight((digest, job.options.lane.value)) as (flight, is_mine):
            if not is_mine:
                passage.step_aside()
                found = _landed(flight, deadline, cancelled)
                if found is not None:
                    return same(found, "joined")
                return self._noted(digest, passage.read(page, raster, rasterise_ms + hashed_ms))
            found = self._known(digest)
            if found is not None:
                flight.set_result(found)
                return same(found, "hit")
            metrics.CACHE_PAGES.labels("missed").inc()
            result = passage.read(page, raster, rasterise_ms + hashed_ms)
            flight.set_result(result)
            return self._noted(digest, result)

    @contextmanager
    def _flight(self, key: tuple[str, str]) -> Iterator[tuple[Future[PageResult], bool]]:
        """The one page that is being read of those with this key, and whether it is the caller's. Jobs of another lane
        do not wait for it: it may be a slow one."""
        with self._lock:
            flight = self._flights.get(key)
            is_mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        try:
            yield flight, is_mine
        finally:
            if is_mine:
                with self._lock:
                    del self._flights[key]
                flight.cancel()  # unless it has a result

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


def _landed(flight: Future[PageResult], deadline: float, cancelled: Callable[[], bool]) -> PageResult | None:
    """The result of another page's flight; None if it has none."""
    while not flight.done():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded
        if cancelled():
            raise Cancelled
        wait([flight], timeout=min(left_s, LOOK_S))
    try:
        return flight.result()
    except CancelledError:
        return None


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
