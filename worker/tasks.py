"""The worker's tasks, thin: count a document's pages, read a span of them. The page's story is told in `read_page`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError

from producer.errors import FetchFailed, Internal, JobEnded, NotFound, OcrpoolError, Unavailable
from producer.job import (
    PREPARE,
    Contract,
    ErrorDetail,
    JobState,
    Lane,
    MediaType,
    PageFailure,
    PageResult,
    PrepareMessage,
    SpanMessage,
    Unit,
)
from producer.ledger import Claim, Refusal
from producer.timeline import traced
from worker import metrics
from worker.device import DeviceFailed
from worker.leases import Lease
from worker.own_text import OwnText
from worker.page_cache import Read
from worker.station import Station

log = structlog.get_logger(__name__)

Message = TypeVar("Message", bound=Contract)
Returned = TypeVar("Returned")

#: Pauses between tries to reach the ledger, the last one again and again. Together they outlast a Redis restart: a
#: worker that is stopping tries no longer.
_RETRY_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 5.0)

#: Pause before a unit whose document cannot be fetched now is given back.
STORE_PAUSE_S = 2.0

#: A thread that would claim looks this often whether its worker still cannot read.
STAND_ASIDE_S = 0.1


def prepare(station: Station, body: object, lane: Lane | None) -> None:
    """Do the unit whose turn it is in the lane that the message came on; `body` asks for a document's pages to be
    counted."""
    station.intake.received()
    message = _parse(station, PrepareMessage, body)
    if message is not None:
        _do_next(station, message.job_id, PREPARE, lane)


def read_span(station: Station, body: object, lane: Lane | None) -> None:
    """The same; `body` asks for a span to be read."""
    station.intake.received()
    message = _parse(station, SpanMessage, body)
    if message is not None:
        _do_next(station, message.job_id, str(message.span), lane)


def _do_next(station: Station, job_id: str, unit: str, lane: Lane | None) -> None:
    """A message is as good as any other of its lane: tenants take turns, so that no queue of one is ahead of another's.

    A quarantined page is read with no other in this process, so that it cannot be charged with another's doing.
    """
    quarantined = lane is Lane.QUARANTINE
    with station.company.alone() if quarantined else station.company.shared():
        claim = _claim(station, job_id, unit, None if quarantined else lane)
        if claim is None:
            return
        with station.leases.hold(claim) as lease:
            try:
                if claim.unit == PREPARE:
                    units = _count_pages(station, lease)
                else:
                    units = _read_claimed(station, lease, alone=quarantined)
            except Exception:
                units = _give_back_what_failed(station, lease)
        station.publisher.publish(units or ())


def _give_back_what_failed(station: Station, lease: Lease) -> list[Unit] | None:
    """Nobody foresaw how, but the worker lives: a lease that lapsed would be counted as its death."""
    claim = lease.claim
    log.exception("unit.failed", job_id=claim.job.id, unit=claim.unit)
    if lease.suspect.is_set():
        _let_lapse(station, lease)
        return None
    station.stopping.wait(STORE_PAUSE_S)
    unforeseen = ErrorDetail.of(Internal("The document failed inside the pool, three times."))
    return _patiently(station, lease, partial(station.ledger.release, claim, again=True, unforeseen=unforeseen))


def _count_pages(station: Station, lease: Lease) -> list[Unit] | None:
    """Count the document's pages, or fail the job with the reason. Returns the units to publish."""
    claim = lease.claim
    try:
        with _document(station, claim) as path:
            pages = station.rasteriser.count_pages(path, claim.job.media_type)
        spans = claim.job.options.spans(pages, station.settings.span_pages)
    except Unavailable as error:
        _log_and_pause(station, claim, error)
        return _patiently(station, lease, partial(station.ledger.release, claim, again=True))
    except OcrpoolError as error:
        return _patiently(station, lease, partial(_fail, station, claim, error))
    return _patiently(station, lease, partial(station.ledger.plan, claim, spans))


def _fail(station: Station, claim: Claim, error: OcrpoolError) -> list[Unit]:
    station.ledger.fail(claim, ErrorDetail.of(error))
    return []


def _read_claimed(station: Station, lease: Lease, *, alone: bool) -> list[Unit] | None:
    """Read the span's pages that have no outcome yet, side by side, and write each outcome as it comes. Returns the
    units to publish."""
    claim = lease.claim
    if claim.lane is Lane.QUARANTINE and not alone:
        # A late message for a page that has been quarantined since: it comes again on its own queue.
        return _patiently(station, lease, partial(station.ledger.release, claim, again=True))
    written = _read_pages(station, lease)
    if lease.lost.is_set() and claim.lane is not Lane.QUARANTINE:
        return None  # The ledger has taken it back already.
    if lease.suspect.is_set():
        _let_lapse(station, lease)
        return None
    return _patiently(station, lease, partial(station.ledger.release, claim, again=not written))


def _let_lapse(station: Station, lease: Lease) -> None:
    """The worker is about to end, and this may be why: a death to be counted."""
    _patiently(station, lease, partial(station.ledger.let_lapse, [lease.claim]))


def _read_pages(station: Station, lease: Lease) -> bool:
    """Whether every page that was owed an outcome has it."""
    claim = lease.claim
    deadline = time.monotonic() + claim.deadline_in_s
    try:
        with _document(station, claim) as path:
            futures = [
                station.pages.submit(
                    claim.job.id, claim.job.options.lane, read_page, station, lease, path, page, deadline
                )
                for page in claim.pages
            ]
            wait(futures)
    except FetchFailed as error:
        return all([_finish(station, lease, _failure(page, error)) for page in claim.pages])
    except Unavailable as error:
        _log_and_pause(station, claim, error)
        return False
    return all(future.result() for future in futures)


def _log_and_pause(station: Station, claim: Claim, error: Unavailable) -> None:
    """The unit is no death, but comes back at once: a store that refuses everybody must not turn into a race."""
    log.warning("document.not_fetched", job_id=claim.job.id, unit=claim.unit, error=str(error))
    station.stopping.wait(STORE_PAUSE_S)


def read_page(station: Station, lease: Lease, document: Path, page: int, deadline: float) -> bool:
    """One page from its document's bytes to its outcome in the ledger. False if it must be read again."""
    job = lease.claim.job
    outcome: PageResult | PageFailure
    pixels = ""
    if lease.lost.is_set():
        return True
    trace: list[str] = []
    try:
        with metrics.PAGES_IN_FLIGHT.track_inprogress():
            read = _read(station, lease, document, page, deadline, trace=trace)
            outcome, pixels = read.result, read.pixels
    except JobEnded:
        return True  # The ledger has ended the job, or the sweeper is about to.
    except DeviceFailed:
        lease.suspect.set()
        return False
    except Unavailable:
        return False
    except OcrpoolError as error:
        outcome = _failure(page, error)
    except Exception:
        log.exception("page.failed", job_id=job.id, page=page)
        outcome = _failure(page, Internal("The page failed inside the pool."))
    return _finish(station, lease, outcome, "".join(trace), pixels)


def _read(station: Station, lease: Lease, document: Path, page: int, deadline: float, *, trace: list[str]) -> Read:
    """From the page's own text where that is asked for and sound, from its picture everywhere else.

    `trace` gets where the time went, however the reading ends.
    """
    job, started = lease.claim.job, time.perf_counter()
    waited_ms = 1000 * (started - lease.began)
    own = None
    if job.options.pdf_text != "ocr" and job.media_type is MediaType.PDF:
        own = OwnText.of(station.rasteriser, document, page)
        if job.options.pdf_text == "auto" and not own.doubt:
            return Read(own.as_page(page, 1000 * (time.perf_counter() - started)))
    # Announced no sooner: batches wait for the pages that are on their way to them.
    with (
        station.engine.passage(job.options, deadline, lease.lost.is_set) as passage,
        station.rasters.page(document, job.media_type, page) as raster,
    ):
        rasterise_ms = 1000 * (time.perf_counter() - started)
        try:
            read = station.page_cache.read(
                job, page, raster, passage, rasterise_ms, deadline=deadline, cancelled=lease.lost.is_set
            )
        finally:
            trace.append(traced(waited_ms, rasterise_ms, passage.shares))
    if own is None:
        return read
    return replace(read, result=own.beside(read.result, compare=job.options.pdf_text == "verify"))


def _finish(
    station: Station, lease: Lease, outcome: PageResult | PageFailure, trace: str = "", pixels: str = ""
) -> bool:
    """Write the outcome, for pages with the same `pixels`, too. False if the page must be read again, by another
    worker."""
    reader = station.page_cache.reader
    write = partial(station.ledger.finish_page, lease.claim, outcome, trace, reader=reader, pixels=pixels)
    verdict = _patiently(station, lease, write)
    if isinstance(verdict, JobState):
        _count(outcome)
    if verdict is Refusal.FINAL:
        # Somebody has ended the job: what this worker holds of it besides need not come to this to learn it.
        station.leases.job_ended(lease.claim.job.id)
    if verdict in (Refusal.FENCED, Refusal.FINAL) or (isinstance(verdict, JobState) and verdict.final):
        lease.lost.set()
    return verdict is not None


def _patiently(station: Station, lease: Lease, write: Callable[[], Returned]) -> Returned | None:
    """What the ledger answers, however long it is away; None once the lease is lost or this worker has to stop.

    The lease is renewed meanwhile, as soon as the ledger is back.
    """
    for pause_s in _pauses(station):
        try:
            return write()
        except Unavailable as error:
            log.warning("ledger.not_written", job_id=lease.claim.job.id, unit=lease.claim.unit, error=str(error))
        if lease.lost.wait(pause_s):
            break
    return None


def _pauses(station: Station) -> Iterator[float]:
    """A pause after each try to reach the ledger: without end while this worker runs, a few once it is stopping."""
    yield from _RETRY_PAUSES_S
    while not station.stopping.is_set():
        # A claim whose answer was lost is renewed by nobody until it is asked for again.
        yield min(_RETRY_PAUSES_S[-1], station.settings.lease_renew_s)


def _count(outcome: PageResult | PageFailure) -> None:
    if isinstance(outcome, PageFailure):
        metrics.PAGES.labels(outcome.error.code).inc()
        return
    metrics.PAGES.labels("read").inc()
    metrics.PAGE_SOURCES.labels(outcome.source).inc()
    if outcome.source == "pdf":
        metrics.STAGE_SECONDS.labels("text").observe(outcome.timings.rasterise_ms / 1000)
        return
    for stage in ("rasterise",) if outcome.cached else ("rasterise", "detect", "recognise"):
        metrics.STAGE_SECONDS.labels(stage).observe(getattr(outcome.timings, f"{stage}_ms") / 1000)


def _failure(page: int, error: OcrpoolError) -> PageFailure:
    return PageFailure(page=page, error=ErrorDetail.of(error))


def _parse(station: Station, kind: type[Message], body: object) -> Message | None:
    """The message, or None for one that is not of this contract, which becomes a dead letter."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        station.refuse(repr(body).encode(), "", str(error))
        return None


def _claim(station: Station, job_id: str, unit: str, turn: Lane | None) -> Claim | None:
    """The claim, or None if there is nothing to do.

    While the ledger is away or full, this thread waits with its message: the worker takes no more than it has threads.
    """
    while station.engine.trouble() and not station.stopping.is_set():
        time.sleep(STAND_ASIDE_S)  # The worker is about to end: what it claimed now would be charged with a death.
    token = uuid.uuid4().hex
    for pause_s in _pauses(station):
        try:
            claim = station.ledger.claim(job_id, unit, station.name, token, turn)
        except Unavailable as error:
            log.warning("unit.not_claimed", job_id=job_id, unit=unit, error=str(error))
            station.stopping.wait(pause_s)
            continue
        if isinstance(claim, Claim):
            return claim
        metrics.UNITS_REFUSED.labels(claim.value).inc()
        log.debug("unit.refused", job_id=job_id, unit=unit, reason=claim.value)
        break
    return None


@contextmanager
def _document(station: Station, claim: Claim) -> Iterator[Path]:
    try:
        with station.blobs.local(claim.job.blob) as path:
            yield path
    except NotFound as error:
        raise FetchFailed(str(error)) from error
