"""What a producer promises, whether it stands beside Redis or before a gateway, and whether it blocks or is awaited."""

from __future__ import annotations

import asyncio
import inspect
import io
import itertools
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from producer import AsyncClient, Client, JobHandle, Lane, Producer, ReadOptions, Settings
from producer.client import AsyncJob, ClientJob
from producer.errors import (
    CorruptDocument,
    FormatUnavailable,
    IdempotencyMismatch,
    InvalidRequest,
    NotFinished,
    NotFound,
    QueueFull,
    TooLarge,
    UnsupportedMediaType,
)
from producer.formats import Format
from producer.job import JobResult, JobState
from producer.ledger import Ledger
from tests.conftest import assert_every_key_is_owned
from tests.documents import tiff
from tests.producer.gateway.serving import PDF, PNG, Served, count_pages, read_pages
from tests.s3_server import BUCKET, S3Server

NO_JOB = "job_" + "0" * 32


class Awaited:
    """Calls what has to be awaited, and awaits it."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner, self._runner = inner, runner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Awaited) and bool(self._inner == other._inner)

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._awaiting(attribute) if inspect.ismethod(attribute) else attribute

    def _awaiting(self, method: Any) -> Any:
        def called(*args: Any, **options: Any) -> Any:
            returned = method(*args, **options)
            if inspect.isasyncgen(returned):
                return self._pulled(returned)
            if inspect.isawaitable(returned):
                returned = self._runner.run(_only(returned))
            return Awaited(returned, self._runner) if hasattr(returned, "client") else returned

        return called

    def _pulled(self, generator: Any) -> Iterator[Any]:
        while (one := self._runner.run(_only(anext(generator, None)))) is not None:
            yield one


async def _only(awaitable: Any) -> Any:
    return await awaitable


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_port": 0, "max_document_bytes": 100_000, "max_queued_jobs": 8})


@pytest.fixture(params=["Producer", "Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def producer(kind: str, settings: Settings) -> Iterator[Any]:
    """Their calls are the same; what they have beside them is not compared here."""
    with _producer(kind, settings) as producer:
        yield producer


@pytest.fixture
def producer_and_bucket(kind: str, settings: Settings, s3: S3Server) -> Iterator[tuple[Any, Ledger]]:
    """One whose pool has its documents in a bucket."""
    settings = settings.model_copy(update={"blob_url": f"s3://{BUCKET}/{uuid.uuid4().hex}"})
    ledger = Ledger(settings)
    with _producer(kind, settings) as producer:
        yield producer, ledger
    assert_every_key_is_owned(ledger.redis, settings.namespace)
    ledger.close()


@contextmanager
def _producer(kind: str, settings: Settings) -> Iterator[Any]:
    if kind == "Producer":
        with Producer(settings) as producer:
            yield producer
        return
    with Served(settings) as served:
        if kind == "Client":
            with Client(served.url, patience_s=0) as client:
                yield client
        else:
            with asyncio.Runner() as runner:
                awaited = AsyncClient(served.url, patience_s=0)
                yield Awaited(awaited, runner)
                runner.run(awaited.close())


def test_bytes_paths_and_open_files_are_handed_in(producer: Any, ledger: Ledger, tmp_path: Path) -> None:
    (path := tmp_path / 'Rechnung "März".pdf').write_bytes(PDF)
    handed_in = [
        (producer.submit(PDF), ""),
        (producer.submit(PDF, name="../a/b.pdf"), "b.pdf"),
        (producer.submit(str(path)), path.name),
        (producer.submit(io.BytesIO(PDF), name="报告.pdf"), "报告.pdf"),
        *((one, "") for one in producer.submit_all([bytearray(PDF), memoryview(PDF)])),
    ]
    for job, name in handed_in:
        status = producer.status(job.id)
        assert (status.id, status.name, status.state, job.replayed) == (job.id, name, JobState.QUEUED, False)
        assert ledger.job(job.id).size_bytes == len(PDF)


def test_options_arrive_as_they_were_chosen(producer: Any, ledger: Ledger) -> None:
    options = ReadOptions(orientation=True, min_score=0.25, lane=Lane.BULK, deadline_s=600, pages="2,4-6")
    assert ledger.job(producer.submit(PDF, options).id).options == options
    assert ledger.job(producer.submit(PDF).id).options == ReadOptions()


def test_a_job_is_followed_to_its_result(producer: Any, ledger: Ledger) -> None:
    job = producer.submit(PDF, name="a.pdf")
    with pytest.raises(NotFinished):
        job.result()
    assert job.wait(timeout_s=0).state is JobState.QUEUED

    statuses = job.watch(timeout_s=60)
    assert next(statuses).pages_total is None
    count_pages(ledger, job.id, 10)
    read_pages(ledger, job.id, "1+8", failing={3})
    assert [page.page for page in job.pages().pages] == list(range(1, 9))
    assert job.pages(after=6) == producer.pages(job.id, after=6)
    assert [attempt.unit for attempt in job.timeline().attempts] == ["prepare", "1+8"]
    assert (next(statuses).pages_done, job.wait(timeout_s=0.1).final) == (7, False)
    read_pages(ledger, job.id, "9+2")
    assert [status.state for status in statuses] == [JobState.PARTIAL]

    assert producer.job(job.id) == job
    assert producer.job(job.id).wait().state is JobState.PARTIAL
    assert job.result() == ledger.result(job.id)


def test_a_result_goes_into_files(producer: Any, ledger: Ledger, tmp_path: Path) -> None:
    job = producer.submit(tiff(["one", "two"]), name="a.tiff")
    with pytest.raises(NotFinished):
        job.save_to_json(tmp_path)
    count_pages(ledger, job.id, 2)
    read_pages(ledger, job.id, "1+2", failing={2})
    assert job.save_to_json(tmp_path) == tmp_path / "a.tiff.json"
    assert JobResult.model_validate_json((tmp_path / "a.tiff.json").read_bytes()) == ledger.result(job.id)
    assert "合计" in job.save_to_markdown(str(tmp_path / "read.md")).read_text()
    assert job.save(tmp_path, Format.TEXT).read_text() == "page 1: 合计 12.50"
    assert job.save(tmp_path / "by-name", "text").read_text() == "page 1: 合计 12.50"
    with job.fetch("text") as text:
        assert text.read().decode() == "page 1: 合计 12.50"
    for ask in (job.fetch, partial(job.save, tmp_path)):
        with pytest.raises(InvalidRequest, match=r"^format: "):
            ask("docx")
    assert job.save_to_pdf(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")
    [overlay] = job.save_to_img(tmp_path / "pictures")
    assert overlay.name == "a.tiff.page-1.overlay.png"
    assert overlay.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidRequest, match="save_to_img"):
        job.save(tmp_path, Format.OVERLAY)
    with pytest.raises(CorruptDocument):
        job.fetch(Format.OVERLAY, 2)


def test_a_result_in_a_folder_has_no_address(producer: Any, ledger: Ledger) -> None:
    job = producer.submit(PNG)
    with pytest.raises(NotFinished):
        job.link()
    read_pages(ledger, job.id)
    with pytest.raises(FormatUnavailable, match="OCRPOOL_BLOB_URL"):
        job.link("text", ttl_s=60)
    with pytest.raises(NotFound):
        producer.job(NO_JOB).link()
    with pytest.raises(InvalidRequest):
        job.link(Format.OVERLAY)


def test_a_result_in_a_bucket_has_an_address_of_its_own(
    producer_and_bucket: tuple[Any, Ledger],
) -> None:
    producer, ledger = producer_and_bucket
    job = producer.submit(PNG, name="a.png")
    read_pages(ledger, job.id)
    link = job.link(Format.TEXT, ttl_s=60)
    assert httpx.get(link.url).text == job.result().text
    assert 0 < link.expires_at - time.time() <= 60
    assert job.link().url != link.url


def test_a_job_is_cancelled(producer: Any) -> None:
    job = producer.submit(PDF)
    assert job.cancel().state is JobState.CANCELLED
    assert [status.state for status in job.watch()] == [JobState.CANCELLED]
    assert job.result().error.code == "cancelled"


def test_what_was_not_read_is_read_again(producer: Any, ledger: Ledger) -> None:
    job = producer.submit(PDF)
    with pytest.raises(NotFinished):
        job.retry()
    count_pages(ledger, job.id, 2)
    read_pages(ledger, job.id, "1+2", failing={2})
    again = job.retry()
    assert (again.status().retry_of, again.replayed, job.retry().replayed) == (job.id, False, True)
    assert job.retry() == again


def test_one_key_is_one_job(producer: Any) -> None:
    first = producer.submit(PDF, idempotency_key="order-17")
    again = producer.submit(PDF, idempotency_key="order-17")
    assert again == first
    assert (first.replayed, again.replayed) == (False, True)
    with pytest.raises(IdempotencyMismatch):
        producer.submit(PNG, idempotency_key="order-17")
    with pytest.raises(InvalidRequest, match=r"^Idempotency-Key: "):
        producer.submit(PDF, idempotency_key="Auftrag\n17")


def test_one_key_is_the_same_jobs_by_their_places(producer: Any, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "late.pdf"
    asked: list[Any] = [PDF, path, b"no type", PNG]
    first = producer.submit_all(asked, idempotency_key="night-1")
    assert [type(one) for one in first[1:3]] == [InvalidRequest, UnsupportedMediaType]
    path.write_bytes(PDF)
    again = producer.submit_all(asked, idempotency_key="night-1")
    assert [one.id for one in (again[0], again[3])] == [one.id for one in (first[0], first[3])]
    assert [one.replayed for one in (*first[::3], again[0], again[1], again[3])] == [False, False, True, False, True]
    assert producer.status(again[1].id).name == "late.pdf"
    assert ledger.backlog()["unfinished"] == 3
    assert type(producer.submit_all([PNG], idempotency_key="night-1")[0]) is IdempotencyMismatch
    assert producer.submit_all([PDF], idempotency_key="night-2")[0].id != first[0].id
    with pytest.raises(InvalidRequest, match=r"^Idempotency-Key: "):
        producer.submit_all([PDF], idempotency_key="")


@pytest.mark.parametrize("names", [["x"], []])
def test_fewer_names_than_documents_are_refused(producer: Any, ledger: Ledger, names: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=r"^names: "):
        producer.submit_all([PNG, PNG, PNG], names=names)
    assert ledger.backlog()["unfinished"] == 0
    # Those that cannot be counted before are told one by one.
    found = producer.submit_all(iter([PNG, PNG, PNG]), names=iter(names))
    assert [isinstance(one, InvalidRequest) for one in found] == [number >= len(names) for number in range(3)]
    assert len(producer.submit_all([PNG], names=itertools.repeat("more"))) == 1


def test_what_is_no_document_is_refused_at_its_place(producer: Any) -> None:
    assert [type(one) is InvalidRequest for one in producer.submit_all([None, PNG, 17])] == [True, False, True]
    with pytest.raises(InvalidRequest, match="NoneType"):
        producer.submit(None)


def test_an_address_is_not_one_of_many(producer: Any) -> None:
    for key in (None, "key-1"):
        found = producer.submit_all(["https://example.com/a.pdf", "HTTP://example.com/", PNG], idempotency_key=key)
        for one in found[:2]:
            assert type(one) is InvalidRequest
            assert str(one) == "A document at an address is handed in by itself, with submit."
        assert not isinstance(found[2], InvalidRequest)


def test_files_that_cannot_be_read_are_refused(producer: Any, ledger: Ledger, tmp_path: Path) -> None:
    (path := tmp_path / "a.pdf").write_bytes(PDF)
    (closed := path.open("rb")).close()
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe, path.open() as text:
        files = [closed, pipe, text, io.StringIO("text"), object()]
        for file in files:
            with pytest.raises(InvalidRequest, match=r"^(The document cannot be read: [^:]+|A document is .*)\.$"):
                producer.submit(file)
        assert [type(one) for one in producer.submit_all(files)] == [InvalidRequest] * len(files)
    assert ledger.backlog()["unfinished"] == 0


def test_the_clients_have_the_producers_calls() -> None:
    def calls(kind: type) -> dict[str, set[str]]:
        return {
            name: set(inspect.signature(call).parameters)
            for name, call in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    ours, jobs = calls(Producer), calls(JobHandle)
    for name in ("of_tenant", "origin", "follow", "workers"):
        del ours[name]
    for name in ("submit", "submit_all"):
        ours[name].remove("batch")  # which the gateway names
    for client, job in ((Client, ClientJob), (AsyncClient, AsyncJob)):
        theirs = calls(client)
        assert {name: theirs.get(name) for name in ours} == ours
        assert calls(job) == jobs


def test_refusals_are_of_their_class(producer: Any, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMediaType):
        producer.submit(b"what is this")
    with pytest.raises(TooLarge):
        producer.submit(PDF + bytes(100_000))
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        producer.submit(tmp_path / "nothing.pdf")
    with pytest.raises(InvalidRequest, match=r"^name: at most 255"):
        producer.submit(PDF, name="n" * 256)
    with pytest.raises(InvalidRequest, match=r"^pages: "):
        producer.submit(PNG, ReadOptions(pages="2"))
    for call in (producer.status, producer.result, producer.cancel, producer.wait):
        for job_id in (NO_JOB, "../jobs"):
            with pytest.raises(NotFound):
                call(job_id)
    assert ledger.backlog()["unfinished"] == 0

    for _ in range(8):
        producer.submit(PNG)
    with pytest.raises(QueueFull, match="takes no more now"):
        producer.submit(PNG)
