"""Documents that are handed in by their address."""

from __future__ import annotations

import io
import uuid

import pytest

from producer.blobs import open_store
from producer.errors import FetchFailed, FetchForbidden, OcrpoolError, TooLarge, UnsupportedMediaType
from producer.job import MediaType
from producer.producer import Producer
from producer.settings import Settings
from producer.sources import Sources
from tests.producer.gateway.serving import PDF, Served, assert_problem
from tests.s3_server import BUCKET, Foreign, S3Server


@pytest.fixture
def inbox(s3: S3Server) -> str:
    """A place with documents."""
    place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    folder = place.removeprefix(f"s3://{BUCKET}/")
    contents = {"a b+c%20d.pdf": PDF, "words.txt": b"words", "large.pdf": PDF + bytes(10_000)}
    for name, content in contents.items():
        s3.client.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=content)
    s3.seen.clear()
    return place


def allowing(settings: Settings, *places: str, **more: object) -> Settings:
    return settings.model_copy(update={"s3_sources": places, "max_document_bytes": 5_000, **more})


def test_an_object_of_an_allowed_place_is_a_document(settings: Settings, inbox: str) -> None:
    with Producer(allowing(settings, "s3://other", inbox)) as producer:
        job = producer.submit(f"{inbox}/a b+c%20d.pdf", idempotency_key="one")
        record = producer.ledger.job(job.id)
        assert (record.name, record.media_type, record.size_bytes) == ("a b+c%20d.pdf", MediaType.PDF, len(PDF))
        assert producer.blobs.get(record.blob) == PDF
        assert producer.submit(f"{inbox}/a b+c%20d.pdf", idempotency_key="one") == job


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("words.txt", UnsupportedMediaType),
        ("large.pdf", TooLarge),
        ("nothing.pdf", FetchFailed),
    ],
)
def test_what_cannot_be_a_document_leaves_nothing(
    settings: Settings, inbox: str, name: str, error: type[OcrpoolError]
) -> None:
    with Producer(allowing(settings, inbox)) as producer:
        with pytest.raises(error):
            producer.submit(f"{inbox}/{name}")
        assert producer.ledger.totals() == {}
        assert not [path for path in settings.blob_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ((), "{inbox}/large.pdf"),
        (("s3://other",), "{inbox}/large.pdf"),
        (("s3://scans/in",), "s3://scans/inside/a.pdf"),
        (("s3://scans",), "s3://scans.other/a.pdf"),
        (("s3://scans/in",), "s3://scans/in/../a.pdf"),
        (("s3://scans/in",), "s3://scans/in//a.pdf"),
        (("s3://scans/in",), "s3://scans/in/"),
        (("s3://scans",), "s3://scans"),
        (("s3://scans",), "s3://scans/a\r\nb.pdf"),
        (("s3://scans",), "s3://scans/blobs/job_1"),
        (("s3://scans",), "S4://scans/a.pdf"),
        (("s3://scans",), "/etc/passwd"),
        (("s3://scans",), "file:///etc/passwd"),
    ],
)
def test_no_other_address_is_asked(
    settings: Settings, inbox: str, s3: S3Server, allowed: tuple[str, ...], asked: str
) -> None:
    chosen = allowing(settings, *allowed, blob_url="s3://scans/blobs")
    with pytest.raises(FetchForbidden):
        Sources(chosen).copy(asked.format(inbox=inbox), io.BytesIO())
    assert s3.seen == []


def test_a_place_that_refuses_is_told(settings: Settings, inbox: str, s3: S3Server) -> None:
    s3.fault = lambda method, path: "AccessDenied"
    with pytest.raises(FetchFailed, match=r"The bucket scans denies access \(AccessDenied\)\."):
        Sources(allowing(settings, inbox)).copy(f"{inbox}/large.pdf", io.BytesIO())


def test_what_answers_404_in_front_of_a_place_says_nothing_about_its_documents(
    settings: Settings, inbox: str, s3: S3Server
) -> None:
    # Given a load balancer that answers in the place of S3, for a moment
    answers = [Foreign(404, b"no backend")]
    s3.fault = lambda method, path: answers.pop() if answers else ""
    content = io.BytesIO()
    Sources(allowing(settings, inbox)).copy(f"{inbox}/a b+c%20d.pdf", content)
    assert content.getvalue() == PDF


def test_a_pool_whose_blobs_lie_in_a_bucket_takes_documents_as_ever(settings: Settings, s3: S3Server) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    with Producer(settings.model_copy(update={"blob_url": url})) as producer:
        job = producer.submit(PDF)
        assert open_store(producer.settings).get(job.id) == PDF
        assert s3.below(url) == [f"{url.removeprefix(f's3://{BUCKET}/')}/{job.id}"]


def test_the_gateway_takes_it_as_a_url(settings: Settings, inbox: str) -> None:
    with Served(allowing(settings, inbox, gateway_port=0)) as served:
        answer = served.http.post("/v1/jobs", json={"url": f"{inbox}/a b+c%20d.pdf"})
        assert (answer.status_code, answer.json()["name"]) == (202, "a b+c%20d.pdf")
        problem = assert_problem(served.http.post("/v1/jobs", json={"url": "s3://other/a.pdf"}), 422, "fetch_forbidden")
        assert problem["detail"].startswith("url: ")
