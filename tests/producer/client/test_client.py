"""The clients before gateways that refuse, fail, lose their answers or die."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from producer import AsyncClient, Client, OcrpoolError, Producer, Settings
from producer.api_keys import ApiKeys
from producer.client import ClientJob, Outcome
from producer.client.steps import FIRST_S, JITTER, LATE_S, LONGEST_RETRY_AFTER_S, Patience, Send
from producer.documents import Source
from producer.errors import (
    CorruptDocument,
    Internal,
    InvalidRequest,
    NotFinished,
    NotFound,
    QueueFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from producer.job import JobState, Lane, ReadOptions
from producer.ledger import Ledger
from producer.processes import free_port
from producer.producer import JobHandle
from tests.chaos.proxy import Proxy
from tests.http_site import Asked, Site, reply
from tests.producer.gateway.serving import PNG, Served, read_pages, wait_until

PROBLEM = "Content-Type: application/problem+json"
FULL = reply(429, b'{"code": "queue_full", "detail": "Full."}', PROBLEM, "Retry-After: 1", "Connection: close")
AWAY = reply(503, b"<html>no gateway behind this proxy</html>", "Retry-After: 1", "Connection: close")
ACCEPTED_BODY = b'{"id": "job_%032d", "state": "queued", "created_at": 1, "of_a_later_version": []}' % 1
ACCEPTED = reply(202, ACCEPTED_BODY, "Connection: close")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_port": free_port()})


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def in_turn(*replies: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
    left = iter(replies)

    def answer(asked: Asked) -> Any:
        return next(left)(asked)

    return answer


def test_what_is_refused_for_now_is_sent_again_when_the_gateway_says() -> None:
    with Site(in_turn(FULL, AWAY, ACCEPTED)) as site, Client(f"http://127.0.0.1:{site.port}/below", "key-1") as client:
        began = time.monotonic()
        job = client.submit(PNG, name="a.png")
        assert time.monotonic() - began >= 2
    assert job.id == "job_00000000000000000000000000000001"
    # The same request each time, under one key of its own, at the address below which the gateway is.
    assert len({asked.headers["idempotency-key"] for asked in site.asked}) == 1
    assert [asked.path for asked in site.asked] == ["/below/v1/jobs"] * 3
    assert all(PNG in asked.body and asked.headers["authorization"] == "Bearer key-1" for asked in site.asked)


def test_patience_ends_and_tells_when_to_try_again() -> None:
    with Site(FULL) as site, Client(f"http://127.0.0.1:{site.port}", patience_s=0.9) as client:
        with pytest.raises(QueueFull, match=r"^Full\.$") as refused:
            client.submit(PNG)
        assert (len(site.asked), refused.value.retry_after_s) == (1, 1)
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        Client(nobody, patience_s=FIRST_S * (1 + JITTER)) as client,
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        client.status("job_" + "0" * 32)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(401, b'{"code": "unauthorized", "detail": "No."}'), Unauthorized),
        (reply(413, b"<html>nginx</html>"), TooLarge),
        (reply(409, b'{"code": "of_a_later_version", "detail": "No."}', PROBLEM), InvalidRequest),
        (reply(403, b'{"code": "of_a_later_version", "detail": "No."}', PROBLEM), Unauthorized),
        (reply(302, b"", "Location: http://127.0.0.1:1/"), OcrpoolError),
        (reply(200, b"<html>log in</html>"), OcrpoolError),
    ],
)
def test_what_does_not_pass_is_asked_once(answer: Callable[[Asked], Any], error: type[OcrpoolError]) -> None:
    with Site(answer) as site, Client(f"http://127.0.0.1:{site.port}", "key-1") as client:
        with pytest.raises(error):
            client.submit(PNG)
        assert len(site.asked) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "base_url",
    [
        *("", "ocr.example.com", "localhost:8080", "ftp://x", "http://", "http://[::1", "http://a b", "http://a..b"),
        *("http://a:99999", "http://a:b", "http://user:secret@a b/"),
    ],
)
def test_what_cannot_be_an_address_is_refused_at_once(kind: type[Client] | type[AsyncClient], base_url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^base_url: ") as refused:
        kind(base_url)
    assert "secret" not in told(refused.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["ocrp_1_secret\nX-Other: 1", "ocrp_1 secret", "ocrp_1_secretß", "secret\0", " \n"])
def test_what_cannot_be_a_key_is_refused_and_not_told(kind: type[Client] | type[AsyncClient], key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^api_key: ") as refused:
        kind("http://127.0.0.1:1", key)
    assert "secret" not in told(refused.value)


def told(error: BaseException) -> str:
    """What an error tells, and those that it came of and that are told with it."""
    came_of = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{error!r} {told(came_of) if came_of else ''}"


def test_blanks_around_a_key_do_not_matter() -> None:
    with Site(ACCEPTED) as site, Client(f"HTTP://127.0.0.1:{site.port}", "ocrp_1_2\r\n") as client:
        client.submit(PNG)
    assert site.asked[0].headers["authorization"] == "Bearer ocrp_1_2"


@pytest.mark.parametrize("error", [httpx.LocalProtocolError, httpx.UnsupportedProtocol])
def test_a_request_that_cannot_be_sent_is_not_sent_again(error: type[httpx.TransportError]) -> None:
    steps = Patience(60).answer(Send("GET", "/v1/jobs"))
    next(steps)
    with pytest.raises(InvalidRequest, match="cannot be sent") as refused:
        steps.throw(error("Illegal header value b'Bearer ocrp_1_secret'"))
    assert "secret" not in told(refused.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_body_that_cannot_be_unpacked_is_no_answer(kind: type[Client] | type[AsyncClient]) -> None:
    with Site(reply(200, b"no gzip", "Content-Encoding: gzip", "Connection: close")) as site:
        assert isinstance(called(kind, site, lambda client: client.wait(JOB, timeout_s=0.5)), Unavailable)


@pytest.mark.parametrize(("asked", "kept"), [("9" * 12, LONGEST_RETRY_AFTER_S), ("9" * 400, None)])
def test_a_pause_without_end_is_none(asked: str, kept: float | None) -> None:
    forever = reply(429, b'{"code": "queue_full", "detail": "Full."}', PROBLEM, f"Retry-After: {asked}")
    with Site(forever) as site, Client(f"http://127.0.0.1:{site.port}", patience_s=0.1) as client:
        with pytest.raises(QueueFull) as refused:
            client.submit(PNG)
        assert refused.value.retry_after_s == kept


def test_a_client_that_is_closed_says_so() -> None:
    async def asked(client: AsyncClient) -> None:
        await client.close()
        await client.status(JOB)

    client = Client("http://127.0.0.1:1")
    client.close()
    with pytest.raises(Unavailable, match="closed"):
        client.status(JOB)
    with pytest.raises(Unavailable, match="closed"):
        asyncio.run(asked(AsyncClient("http://127.0.0.1:1")))


WAITS: dict[str, Callable[[Any], Any]] = {
    "wait": lambda client: client.wait(JOB),
    "map": lambda client: every(client.map([PNG])),
    "submit_all": lambda client: client.submit_all([PNG]),
}
LATER = reply(503, b"", "Retry-After: 30", "Connection: close")


def check_closed(found: Any) -> None:
    """That a call's error, or that of its one document, is that of a closed client."""
    error = found[0] if isinstance(found, list) else found
    error = error.error if isinstance(error, Outcome) else error
    assert isinstance(error, Unavailable)
    assert "closed" in str(error)


def raised(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OcrpoolError as error:
        return error


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as a call begins to pause."""
    event = threading.Event()

    def chance() -> float:
        event.set()
        return 0

    monkeypatch.setattr("producer.client.steps.random", SimpleNamespace(random=chance))
    return event


def reading() -> bool:
    """Whether a thread waits for an answer."""
    return any(
        frame.f_code.co_name == "read" and frame.f_code.co_filename.endswith("httpcore/_backends/sync.py")
        for frame in sys._current_frames().values()
    )


@pytest.mark.parametrize("call", WAITS)
def test_closing_the_client_ends_what_waits(
    call: str, held: Callable[[Asked], Any], pausing: threading.Event, threads: ThreadPoolExecutor
) -> None:
    for answer, waits in ((held, reading), (LATER, pausing.is_set)):
        with Site(answer) as site:
            client = Client(f"http://127.0.0.1:{site.port}")
            waiting = threads.submit(raised, partial(WAITS[call], client))
            wait_until(waits)
            client.close()
            check_closed(waiting.result(3))


@pytest.mark.parametrize("call", WAITS)
def test_closing_the_client_ends_what_is_awaited(
    call: str, held: Callable[[Asked], Any], pausing: threading.Event
) -> None:
    async def closed(site: Site, comes: Callable[..., object]) -> Any:
        client = AsyncClient(f"http://127.0.0.1:{site.port}")
        waiting = asyncio.ensure_future(WAITS[call](client))
        await asyncio.to_thread(comes, timeout=30)
        await client.close()
        [found] = await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 3)
        return found

    with Site(held) as site:
        check_closed(asyncio.run(closed(site, site.came.get)))
    with Site(LATER) as site:
        check_closed(asyncio.run(closed(site, pausing.wait)))


class Written(io.BytesIO):
    """A file that somebody writes to once its size is known."""

    def __init__(self, becomes: bytes) -> None:
        super().__init__(PNG)
        self._becomes, self._reads = becomes, 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads == 2:
            at = self.tell()
            self.seek(0)
            self.truncate()
            self.write(self._becomes)
            self.seek(at)
        return super().read(size)


def test_files_are_sent_as_long_as_they_were() -> None:
    with Site(ACCEPTED) as site, Client(f"http://127.0.0.1:{site.port}") as client:
        client.submit(Written(PNG + b"more"))
        assert b"more" not in site.asked[0].body
        with pytest.raises(InvalidRequest, match="shorter"):
            client.submit(Written(PNG[:10]))
        assert [type(one) for one in client.submit_all([Written(b"")])] == [InvalidRequest]


def test_a_document_at_an_address_is_the_gateways_to_fetch() -> None:
    with Site(ACCEPTED) as site, Client(f"http://127.0.0.1:{site.port}") as client:
        client.submit("HTTPS://files.example.com/a.pdf")
    assert json.loads(site.asked[0].body)["url"] == "HTTPS://files.example.com/a.pdf"


def test_a_key_opens_its_tenants_jobs_alone(settings: Settings, ledger: Ledger) -> None:
    _, key = ApiKeys(ledger).create("a", "acme")
    _, others = ApiKeys(ledger).create("b", "other")
    with Served(settings.model_copy(update={"api_keys": "on"})) as served:
        with Client(served.url, key) as client:
            job = client.submit(PNG)
            assert job.status().state is JobState.QUEUED
        with Client(served.url, others) as client, pytest.raises(NotFound):
            client.status(job.id)
        with Client(served.url) as client, pytest.raises(Unauthorized, match="API key"):
            client.status(job.id)


def test_one_that_cannot_be_read_keeps_no_other_out(settings: Settings) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with Served(settings) as served, Client(served.url) as client, os.fdopen(reading, "rb") as pipe:
        found = client.submit_all([PNG, pipe, PNG])
    assert [type(one) for one in found] == [ClientJob, InvalidRequest, ClientJob]


def test_many_documents_are_handed_in_and_followed_together(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served, Client(served.url) as client:
        found = client.submit_all([PNG] * 150 + ["/no/such/file", b"no such type", PNG], ReadOptions(lane=Lane.BULK))
        assert [type(one) for one in found[149:]] == [ClientJob, InvalidRequest, UnsupportedMediaType, ClientJob]
        first, *_, last = [one for one in found if isinstance(one, ClientJob)]
        assert ledger.backlog()["queue_bulk"] == 151
        assert next(client.jobs(limit=120)).id == last.id
        assert len(list(client.jobs(limit=120))) == 120
        read_pages(ledger, first.id)
        assert [job.id for job in client.jobs(JobState.SUCCEEDED)] == [first.id]
        assert [page.page for page in client.pages(first.id).pages] == [1]
        assert [attempt.unit for attempt in client.timeline(first.id).attempts] == ["1+1"]
        batch = first.status().batch
        assert batch is not None
        assert len(client.batch(batch)) == 100
        with pytest.raises(NotFound):
            client.batch("../jobs")


def test_a_document_too_large_costs_no_other_its_handle(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.client.batches.AT_ONCE_BYTES", 50_000)
    large = PNG + bytes(200_000)
    with Served(settings.model_copy(update={"max_batch_bytes": 100_000})) as served, Client(served.url) as client:
        found = client.submit_all([PNG, PNG, large, PNG, "/no/such/file", PNG], names=list("abcdef"))
        assert [type(one) for one in found] == [ClientJob, ClientJob, TooLarge, ClientJob, InvalidRequest, ClientJob]
        jobs = [one.status() for one in found if isinstance(one, ClientJob)]
        assert [job.name for job in jobs] == ["a", "b", "d", "f"]
    assert ledger.backlog()["unfinished"] == 4


def accepting(asked: Asked) -> Iterable[bytes]:
    job = {"id": "job_" + "1" * 32, "state": "queued", "created_at": 1}
    body = {"documents": [{"job": job, "problem": None}] * asked.body.count(b"filename=")}
    return reply(202, json.dumps(body).encode(), "Connection: close")(asked)


@pytest.mark.parametrize(
    ("second", "error", "requests", "accepted"),
    [
        (AWAY, Unavailable, 2, 100),  # and the rest is not sent
        (reply(401, b"", "Connection: close"), Unauthorized, 2, 100),
        (reply(500, b'{"code": "internal", "detail": "A bug."}', PROBLEM, "Connection: close"), Internal, 3, 150),
        (reply(202, b'{"documents": []}', "Connection: close"), InvalidRequest, 3, 150),
    ],
)
def test_what_becomes_of_a_later_request_costs_no_handle(
    second: Callable[[Asked], Any], error: type[OcrpoolError], requests: int, accepted: int
) -> None:
    def check(found: Sequence[object], site: Site) -> None:
        assert [isinstance(one, OcrpoolError) for one in found[:100]] == [False] * 100
        assert {type(one) for one in found[100:200]} == {error}
        assert (len(found), len(site.asked)) == (250, requests)
        assert sum(not isinstance(one, OcrpoolError) for one in found) == accepted
        assert len({asked.headers["idempotency-key"] for asked in site.asked}) == requests

    async def handed_in(url: str) -> Sequence[object]:
        async with AsyncClient(url, patience_s=0) as client:
            return await client.submit_all(iter([PNG] * 250))

    with Site(in_turn(accepting, second, accepting)) as site:
        with Client(f"http://127.0.0.1:{site.port}", patience_s=0) as client:
            check(client.submit_all(iter([PNG] * 250)), site)
        site.asked.clear()
        site.answer = in_turn(accepting, second, accepting)
        check(asyncio.run(handed_in(f"http://127.0.0.1:{site.port}")), site)


def test_under_a_key_a_gateway_that_is_away_costs_no_handle() -> None:
    with Site(in_turn(ACCEPTED, ACCEPTED, AWAY)) as site:
        with Client(f"http://127.0.0.1:{site.port}", patience_s=0) as client:
            found = client.submit_all([PNG] * 4, idempotency_key="night-1")
        assert [type(one) for one in found] == [ClientJob, ClientJob, Unavailable, Unavailable]
        assert len({asked.headers["idempotency-key"] for asked in site.asked}) == len(site.asked) == 3


class Cutting(Producer):
    """Cuts off whoever asked once his document is accepted, so that the answer is lost."""

    def __init__(self, settings: Settings, times: int) -> None:
        super().__init__(settings)
        self.proxy: Proxy | None = None
        self._times = times

    def submit(self, *args: Any, **options: Any) -> JobHandle:
        job = super().submit(*args, **options)
        if self._times and self.proxy:
            self._times -= 1
            self.proxy.reset()
        return job


def test_answers_that_are_lost_never_make_two_jobs(settings: Settings, ledger: Ledger) -> None:
    with Cutting(settings, times=2) as cutting, Served(settings, cutting) as served:
        cutting.proxy = proxy = Proxy(settings.gateway_port)
        with Client(f"http://127.0.0.1:{proxy.port}") as client:
            job = client.submit(PNG)
        proxy.close()
        assert job.replayed
        assert ledger.backlog()["unfinished"] == 1
        assert served.http.get(f"/v1/jobs/{job.id}").status_code == 200


def test_a_gateway_that_dies_and_comes_back_is_waited_for(
    settings: Settings, ledger: Ledger, threads: ThreadPoolExecutor
) -> None:
    with Client(f"http://127.0.0.1:{settings.gateway_port}") as client:
        with Served(settings) as served:
            job = client.submit(PNG)
            waiting = threads.submit(job.wait)
            wait_until(lambda: served.waiting == 1)
        assert not waiting.done()
        submitting = threads.submit(client.submit, PNG)
        read_pages(ledger, job.id)
        with Served(settings):
            assert waiting.result(30).state is JobState.SUCCEEDED
            assert submitting.result(30).status().state is JobState.QUEUED


def test_ocr_gives_the_result_or_raises_the_documents_own_error(
    settings: Settings, ledger: Ledger, threads: ThreadPoolExecutor
) -> None:
    with Served(settings), Client(f"http://127.0.0.1:{settings.gateway_port}") as client:
        for failing in ((), (1,)):
            reading = threads.submit(client.ocr, PNG)
            wait_until(lambda: ledger.backlog()["unfinished"] == 1)
            read_pages(ledger, unfinished(ledger)[0], failing=failing)
            if failing:
                with pytest.raises(CorruptDocument):
                    reading.result(30)
            else:
                assert reading.result(30).text == "page 1: 合计 12.50"
        with pytest.raises(NotFinished, match="goes on"):
            client.ocr(PNG, timeout_s=0.1)


def unfinished(ledger: Ledger) -> list[str]:
    members = cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:active", 0, -1))
    return [job_id.decode() for job_id in members]


class Reading(threading.Thread):
    """Reads the one page of what is handed in, `at most` at a time, until it is told to stop."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self.stopped = threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            found = unfinished(self._ledger)
            self.most = max(self.most, len(found))
            for job_id in found:
                read_pages(self._ledger, job_id)

    def __enter__(self) -> Reading:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()


DOCUMENTS: list[Source] = [PNG, b"neither", *[PNG] * 8, "/nowhere.pdf"]


def check_mapped(outcomes: list[Outcome], reading: Reading) -> None:
    assert sorted(map(str, (one.document for one in outcomes))) == sorted(map(str, DOCUMENTS))
    assert 0 < reading.most <= 3
    for one in outcomes:
        if one.document == PNG:
            assert one.job_id
            assert one.result is not None
            assert (one.result.text, one.error) == ("page 1: 合计 12.50", None)
        else:
            assert one.job_id is None
            assert one.error is not None
            code = "unsupported_media_type" if one.document == b"neither" else "invalid_request"
            assert (one.error.code, one.result) == (code, None)


def test_map_loses_no_document_and_no_error(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served, Client(served.url) as client, Reading(ledger) as reading:
        check_mapped(list(client.map(iter(DOCUMENTS), concurrency=3)), reading)


def test_map_loses_nothing_on_an_event_loop(settings: Settings, ledger: Ledger) -> None:
    async def mapped(url: str) -> list[Outcome]:
        async with AsyncClient(url) as client:
            return [one async for one in client.map(DOCUMENTS, concurrency=3)]

    with Served(settings) as served, Reading(ledger) as reading:
        check_mapped(asyncio.run(mapped(served.url)), reading)


def test_map_has_an_outcome_for_what_is_no_document() -> None:
    async def mapped() -> list[Outcome]:
        async with AsyncClient("http://127.0.0.1:1") as client:
            return [one async for one in client.map(none)]

    none: list[Any] = [None, 17, None]
    with Client("http://127.0.0.1:1") as client:
        found = [list(client.map(none)), asyncio.run(mapped())]
    for outcomes in found:
        assert [type(one.error) for one in outcomes] == [InvalidRequest] * 3
        assert {str(one.document) for one in outcomes} == {"None", "17"}


def test_map_takes_one_document_at_a_time_or_more() -> None:
    async def mapped() -> None:
        async with AsyncClient("http://127.0.0.1:1") as client:
            await anext(client.map([PNG], concurrency=0))

    with Client("http://127.0.0.1:1") as client, pytest.raises(ValueError, match="concurrency"):
        next(client.map([PNG], concurrency=0))
    with pytest.raises(ValueError, match="concurrency"):
        asyncio.run(mapped())


def test_whoever_stops_a_map_early_hands_in_no_more(settings: Settings, ledger: Ledger) -> None:
    def documents() -> Iterator[bytes]:
        while True:
            yield PNG

    with Served(settings) as served, Client(served.url) as client:
        mapped = client.map(documents(), concurrency=2)
        with Reading(ledger):
            next(mapped)
        mapped.close()
        client.close()
        handed_in = ledger.totals()["jobs_accepted"]
        with pytest.raises(StopIteration):
            next(mapped)
        assert handed_in <= 4


def test_a_bar_is_shown_on_a_terminal_alone(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Served(settings) as served, Client(served.url) as client:
        list(client.map([b"neither"]))
        assert capfd.readouterr() == ("", "")
        terminal, end = pty.openpty()
        with os.fdopen(end, "w") as stderr:
            monkeypatch.setattr("sys.stderr", stderr)
            list(client.map([b"neither"]))
            list(client.map([b"neither"], progress=False))
        shown = os.read(terminal, 1 << 16).decode()
        os.close(terminal)
        assert shown.count("1 failed") == 1


JOB = "job_" + "0" * 31 + "1"
QUEUED = reply(200, ACCEPTED_BODY, "Connection: close")
CALLS: dict[str, Callable[[Any], Any]] = {
    "wait": lambda client: client.wait(JOB, timeout_s=0.5),
    "watch": lambda client: every(client.watch(JOB, timeout_s=0.5)),
    "ocr": lambda client: client.ocr(PNG, timeout_s=0.5),
    "map": lambda client: every(client.map([PNG], timeout_s=0.5)),
}


def every(some: Any) -> Any:
    async def awaited() -> list[Any]:
        return [one async for one in some]

    return list(some) if isinstance(some, Iterator) else awaited()


def called(kind: type[Client] | type[AsyncClient], site: Site, call: Callable[[Any], Any]) -> Any:
    """What the call gives or raises, if it keeps its time."""

    async def awaited() -> Any:
        async with AsyncClient(url) as client:
            return await call(client)

    began, url = time.monotonic(), f"http://127.0.0.1:{site.port}"
    try:
        if kind is AsyncClient:
            return asyncio.run(awaited())
        with Client(url) as client:
            return call(client)
    except OcrpoolError as error:
        return error
    finally:
        assert time.monotonic() - began < 0.5 + 2 * LATE_S


@pytest.fixture
def held() -> Iterator[Callable[[Asked], Any]]:
    """Answers nothing, and does not hang up."""
    over = threading.Event()

    def answer(_: Asked) -> Iterable[bytes]:
        over.wait()
        return []

    yield answer
    over.set()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("call", CALLS)
def test_a_gateway_that_does_not_answer_takes_no_more_than_the_time_there_is(
    call: str, kind: type[Client] | type[AsyncClient], held: Callable[[Asked], Any]
) -> None:
    for answer in (held, reply(503, b"", "Connection: close")):
        with Site(answer) as site:
            found = called(kind, site, CALLS[call])
            assert isinstance(found[0].error if call == "map" else found, Unavailable)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("call", CALLS)
def test_the_time_is_up_where_a_gateway_answers_no_more(
    call: str, kind: type[Client] | type[AsyncClient], held: Callable[[Asked], Any]
) -> None:
    first = [ACCEPTED, QUEUED] if call in ("ocr", "map") else [QUEUED]
    with Site(in_turn(*first, held)) as site:
        found = called(kind, site, CALLS[call])
    if call in ("wait", "watch"):
        assert (found if call == "wait" else found[-1]).state is JobState.QUEUED
    else:
        error = found[0].error if call == "map" else found
        assert isinstance(error, NotFinished)
        assert JOB in str(error)


class Silent:
    """Takes requests and answers none."""

    async def __aenter__(self) -> Silent:
        self.asked, self.hung_up = asyncio.Event(), asyncio.Event()
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await reader.read()
        writer.close()
        self.hung_up.set()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.parametrize("begin", ["submit", "wait", "map"])
def test_a_call_that_is_cancelled_leaves_nothing_open(begin: str, tmp_path: Any) -> None:
    (path := tmp_path / "a.png").write_bytes(PNG)

    async def mapped(client: AsyncClient) -> None:
        async with aclosing(client.map([path] * 3, concurrency=1)) as outcomes:
            async for _ in outcomes:
                pass

    async def scenario() -> None:
        async with Silent() as silent, AsyncClient(silent.url) as client:
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "submit": client.submit(path),
                "wait": client.wait("job_" + "0" * 32),
                "map": mapped(client),
            }
            task = asyncio.create_task(calls.pop(begin))
            for call in calls.values():
                call.close()
            await silent.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(silent.hung_up.wait(), 10)
            assert len(asyncio.all_tasks()) == 1
        assert str(path) not in {os.readlink(f"/proc/self/fd/{fd}") for fd in open_files()}

    asyncio.run(scenario())


def open_files() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
