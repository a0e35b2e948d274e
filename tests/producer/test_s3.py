"""The S3 store where its server, the way to it or its settings are at fault. The rest is in the stores' contract."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from producer.blobs import FRESH_S, MemoryStore, Probe, open_store
from producer.errors import NotFound, TooLarge, Unavailable
from producer.s3 import BRIEFLY_S, CHUNK_BYTES, PART_BYTES, PATIENCE_S, PAUSES_S, Bucket, S3Store
from producer.settings import Settings
from tests.chaos.proxy import Proxy
from tests.s3_server import BUCKET, Fault, Foreign, RcloneServer, S3Server

DOCUMENT = b"%PDF-1.7 " + bytes(1000)
VARIABLES = {
    "KEY_ID": "AWS_ACCESS_KEY_ID",
    "SECRET": "AWS_SECRET_ACCESS_KEY",
    "ENDPOINT": "AWS_ENDPOINT_URL_S3",
    "ROLE": "AWS_ROLE_ARN",
    "TOKEN": "AWS_WEB_IDENTITY_TOKEN_FILE",
}


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(s3: S3Server, clock: Clock) -> S3Store:
    return store_on(clock)


def store_on(clock: Clock) -> S3Store:
    bucket = Bucket(BUCKET, "The blob store", clock=lambda: clock.now, sleep=clock.sleep, chance=lambda: 0.0)
    return S3Store(f"s3://{BUCKET}/{uuid.uuid4().hex}", bucket=bucket)


#: The pauses of who is patient to the end.
ALL_PAUSES_S = [*PAUSES_S, *5 * [PAUSES_S[-1]]]


def first(times: int, code: str | Foreign, only: str = "") -> Fault:
    """The fault of the first so many requests, of one method or of every one."""
    left = [code] * times
    return lambda method, _: left.pop() if left and only in ("", method) else ""


@pytest.mark.parametrize("code", ["SlowDown", "ServiceUnavailable", "InternalError", "lost"])
def test_what_passes_is_tried_again(store: S3Store, s3: S3Server, clock: Clock, code: str) -> None:
    s3.fault = first(2, code)
    store.put("job_1", DOCUMENT)
    s3.fault = first(2, code)
    assert store.get("job_1") == DOCUMENT
    s3.fault = first(2, code)
    store.delete("job_1")
    assert clock.slept == 3 * [*PAUSES_S[:2]]
    with pytest.raises(NotFound):
        store.get("job_1")


def test_a_store_that_stays_out_of_order_is_left_alone_in_the_end(store: S3Store, s3: S3Server, clock: Clock) -> None:
    s3.fault = lambda method, path: "SlowDown"
    with pytest.raises(Unavailable, match=r"The blob store is overloaded or out of order \(SlowDown\)\."):
        store.put("job_1", DOCUMENT)
    assert clock.slept == ALL_PAUSES_S
    assert PATIENCE_S - PAUSES_S[-1] < sum(clock.slept) <= PATIENCE_S
    assert len(s3.seen) == len(ALL_PAUSES_S) + 1


def test_whoever_keeps_others_waiting_is_patient_for_a_moment(store: S3Store, s3: S3Server, clock: Clock) -> None:
    s3.fault = lambda method, path: "SlowDown"
    for work in (lambda: store.delete("job_1"), lambda: store.delete_unfinished(3600), store.check):
        clock.slept.clear()
        with pytest.raises(Unavailable):
            work()
        assert clock.slept == list(PAUSES_S)
        assert sum(clock.slept) <= BRIEFLY_S
    clock.slept.clear()
    with pytest.raises(Unavailable):
        store.check(patient=False)
    assert clock.slept == []


def test_no_try_begins_after_the_time_for_tries(store: S3Store, s3: S3Server, clock: Clock) -> None:
    def slowly(method: str, path: str) -> str:
        clock.now += 16  # as long as a connection that is silent
        return "SlowDown"

    s3.fault = slowly
    with pytest.raises(Unavailable):
        store.get("job_1")
    assert len(s3.seen) == 2


def test_a_store_that_is_not_there_is_unavailable(s3: S3Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"The blob store cannot be reached\."):
        store_on(clock).put("job_1", DOCUMENT)
    assert clock.slept == ALL_PAUSES_S


def test_bytes_that_change_on_their_way_in_are_sent_again(store: S3Store, s3: S3Server, clock: Clock) -> None:
    s3.fault = first(1, "flipped", "PUT")
    store.put("job_1", DOCUMENT)
    assert len(clock.slept) == 1
    s3.fault = first(1, "flipped", "PUT")
    document = bytes(PART_BYTES + 1)
    store.put("job_2", io.BytesIO(document))
    assert len(clock.slept) == 2
    assert (store.get("job_1"), store.get("job_2")) == (DOCUMENT, document)


def test_bytes_that_changed_in_the_store_are_not_given_out(store: S3Store, s3: S3Server, clock: Clock) -> None:
    store.put("job_1", DOCUMENT)
    (key,) = s3.below(store.url)
    metadata = s3.client.head_object(Bucket=BUCKET, Key=key)["Metadata"]
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=DOCUMENT[:-1] + b"!", Metadata=metadata)

    with pytest.raises(Unavailable, match="sends other bytes than were stored"):
        store.get("job_1")
    with pytest.raises(Unavailable), store.local("job_1"):
        pass
    assert clock.slept == 2 * ALL_PAUSES_S


def test_a_body_that_ends_early_is_gone_on_with(
    store: S3Store, s3: S3Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a large document, and a way to it that breaks off after a third
    document = os.urandom(6 * CHUNK_BYTES)
    store.put("job_1", document)
    proxy = Proxy(s3.port)
    proxy.most_bytes = 2 * CHUNK_BYTES + CHUNK_BYTES // 2
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    behind = S3Store(store.url, bucket=Bucket(BUCKET, "The blob store", sleep=clock.sleep))
    s3.seen.clear()
    # When it is fetched, then it is whole after as many tries as it has pieces
    with behind.local("job_1") as path:
        assert path.read_bytes() == document
    assert len(s3.seen) == 3
    proxy.close()


def test_a_document_that_was_replaced_between_two_tries_is_read_from_its_start(
    store: S3Store, s3: S3Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    replaced = os.urandom(3 * CHUNK_BYTES)

    def replace(seconds: float) -> None:
        proxy.most_bytes = 0
        store.put("job_1", replaced)

    store.put("job_1", os.urandom(4 * CHUNK_BYTES))
    behind = S3Store(store.url, bucket=Bucket(BUCKET, "The blob store", sleep=replace))
    proxy.most_bytes = 2 * CHUNK_BYTES

    assert behind.get("job_1") == replaced
    proxy.close()


class Watched(io.BytesIO):
    """A document that knows how much of it was taken in one piece."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.most = max(self.most, len(piece))
        return piece


def test_a_large_document_is_sent_in_parts_that_are_each_tried_again(
    store: S3Store, s3: S3Server, clock: Clock
) -> None:
    document = os.urandom(2 * PART_BYTES + 17)
    source = Watched(document)
    s3.fault = first(2, "SlowDown", "PUT")

    store.put("job_1", source)

    assert source.most == PART_BYTES
    assert [method for method, _ in s3.seen] == ["POST", *5 * ["PUT"], "POST"]
    assert store.get("job_1") == document


def test_a_large_document_whose_last_answer_was_lost_is_there(store: S3Store, s3: S3Server) -> None:
    answers = iter(["", "lost", "NoSuchUpload"])
    s3.fault = lambda method, path: next(answers) if method == "POST" else ""
    store.put("job_1", bytes(PART_BYTES))
    assert store.get("job_1") == bytes(PART_BYTES)


def uploads(s3: S3Server) -> int:
    return len(s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


class BrokenOff(io.BytesIO):
    """A file that can be read once, and ends the thread that reads it again."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise KeyboardInterrupt


def test_a_large_document_that_is_broken_off_leaves_nothing(store: S3Store, s3: S3Server) -> None:
    def full(method: str, path: str) -> str:
        return "QuotaExceeded" if method == "PUT" else ""

    s3.fault = full
    with pytest.raises(Unavailable, match=r"denies access \(QuotaExceeded\)"):
        store.put("job_1", bytes(PART_BYTES))
    assert uploads(s3) == 0
    with pytest.raises(KeyboardInterrupt):
        store.put("job_1", BrokenOff(bytes(PART_BYTES)))
    assert uploads(s3) == 0


def test_uploads_of_killed_processes_go_when_they_are_old(store: S3Store, s3: S3Server) -> None:
    # Given what a killed `put` leaves, and the upload of somebody else
    prefix = store.url.removeprefix(f"s3://{BUCKET}/")
    s3.client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/job_1")
    other = s3.client.create_multipart_upload(Bucket=BUCKET, Key="other/job_1")

    # Moto says of every upload that it was begun in 2010
    assert store.delete_unfinished(older_than_s=100 * 366 * 86_400) == 0
    assert store.delete_unfinished(older_than_s=3600) == 1
    assert uploads(s3) == 1
    s3.client.abort_multipart_upload(Bucket=BUCKET, Key="other/job_1", UploadId=other["UploadId"])


def test_a_server_that_has_never_seen_an_upload_in_parts_has_none_to_delete(rclone: RcloneServer) -> None:
    assert S3Store(f"s3://{BUCKET}/{uuid.uuid4().hex}").delete_unfinished(0) == 0


def test_readers_of_one_document_share_one_copy(store: S3Store, s3: S3Server) -> None:
    store.put("job_1", DOCUMENT)
    s3.seen.clear()
    together = threading.Barrier(4)

    def read() -> bytes:
        with store.local("job_1") as path:
            together.wait(30)
            return path.read_bytes()

    with ThreadPoolExecutor(4) as threads:
        assert [reading.result() for reading in [threads.submit(read) for _ in range(4)]] == 4 * [DOCUMENT]
    assert len(s3.seen) == 1
    with store.local("job_1") as path:
        assert path.read_bytes() == DOCUMENT
    assert not path.exists()
    assert len(s3.seen) == 2


def test_a_copy_that_could_not_be_made_is_made_by_the_next_reader(store: S3Store, s3: S3Server) -> None:
    store.put("job_1", DOCUMENT)
    s3.fault = lambda method, path: "AccessDenied"
    with pytest.raises(Unavailable, match=r"denies access \(AccessDenied\)"), store.local("job_1"):
        pass
    s3.fault = lambda method, path: ""
    with store.local("job_1") as path:
        assert path.read_bytes() == DOCUMENT


NO_SUCH_KEY = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
PAGE = b"<!doctype html><title>Sign in</title><p>Sign in to go on"
REGION = (("x-amz-bucket-region", "eu-west-1"),)


def wants_nothing_of(store: S3Store, *sentences: str) -> None:
    """Each of a pool's works with the store says so in one of these ways, and nothing else."""
    for work in (
        lambda: store.get("job_1"),
        lambda: store.put("job_1", DOCUMENT),
        lambda: store.put_new("job_1", DOCUMENT),
        lambda: store.put("job_1", bytes(PART_BYTES)),
        store.check,
        lambda: store.check(patient=False),
    ):
        with pytest.raises(Unavailable) as caught:
            work()
        assert str(caught.value).replace(f" {store.url}", "") in {f"The blob store {told}." for told in sentences}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            Foreign(404, b"default backend - 404", (("Content-Type", "text/plain"),)),
            "does not answer as S3 does (HTTP 404)",
        ),
        (Foreign(404, b'{"error": "no route"}'), "does not answer as S3 does (HTTP 404)"),
        (Foreign(404), "does not answer as S3 does (HTTP 404)"),
        (Foreign(404, b"<html><body>Not Found</body></html>"), "does not answer as S3 does (HTTP 404)"),
        (Foreign(404, NO_SUCH_KEY[:30]), "does not answer as S3 does (HTTP 404)"),
        (Foreign(404, NO_SUCH_KEY, cut_bytes=60), "does not answer as S3 does (HTTP 404)"),
        (Foreign(404, b"<Error><Code>404 Not Found</Code></Error>"), "does not answer as S3 does (HTTP 404)"),
        (Foreign(412), "refuses the request (HTTP 412)"),
        (Foreign(400, b"<x><y/></x>"), "refuses the request (HTTP 400)"),
        (Foreign(429), "is overloaded or out of order (HTTP 429)"),
        (Foreign(502, b"<html>Bad Gateway</html>"), "is overloaded or out of order (HTTP 502)"),
        (
            Foreign(307, headers=(("Location", "https://127.0.0.1/"),)),
            "answers that it is at another address (HTTP 307)",
        ),
        (Foreign(200, PAGE), "does not answer as S3 does"),
        (Foreign(200, b"<html><p>Sign in</p></html>"), "does not answer as S3 does"),
        (Foreign(200), "does not answer as S3 does"),
        (Foreign(400, b"<x><Error>no</Error></x>"), "fails in a way that was not foreseen (AttributeError)"),
    ],
    ids=str,
)
def test_what_answers_in_the_place_of_s3_is_taken_for_a_fault_that_passes(
    store: S3Store, s3: S3Server, answer: Foreign, sentence: str
) -> None:
    store.put("job_1", DOCUMENT)
    # When something in front of S3 answers for long
    s3.fault = lambda method, path: answer
    # boto3 makes 500 of a status 200 that comes with no XML.
    wants_nothing_of(store, sentence, *["is overloaded or out of order (HTTP 500)"] * (answer.status == 200))
    # Then nothing was taken for gone or stored, and what it answers for a moment is not seen at all
    s3.fault = lambda method, path: ""
    assert store.get("job_1") == DOCUMENT
    s3.fault = first(2, answer)
    assert store.get("job_1") == DOCUMENT
    s3.fault = first(2, answer)
    assert not store.put_new("job_1", b"other")
    s3.fault = first(2, answer)
    store.put("job_2", bytes(PART_BYTES))
    assert store.get("job_2") == bytes(PART_BYTES)


@pytest.mark.parametrize("body", [b"", b"<Error><Code>PermanentRedirect</Code></Error>"], ids=["bare", "of S3"])
@pytest.mark.parametrize("headers", [(), REGION], ids=["no region", "with a region"])
@pytest.mark.parametrize("status", [301, 307])
def test_an_endpoint_that_redirects_is_told_and_not_asked_again_and_again(
    store: S3Store, s3: S3Server, status: int, headers: tuple[tuple[str, str], ...], body: bytes
) -> None:
    s3.fault = lambda method, path: Foreign(status, body, (("Location", "https://127.0.0.1/"), *headers))
    code = "PermanentRedirect" if body else f"HTTP {status}"
    wants_nothing_of(store, f"answers that it is at another address ({code})")
    s3.seen.clear()
    with pytest.raises(Unavailable):
        store.check(patient=False)
    assert len(s3.seen) <= 2
    assert "HEAD" not in {method for method, _ in s3.seen}


@pytest.mark.parametrize(
    ("document", "method", "served"),
    [(DOCUMENT, "PUT", 0), (bytes(PART_BYTES), "PUT", 0), (bytes(PART_BYTES), "POST", 1)],
)
def test_a_page_of_a_proxy_is_no_receipt(
    store: S3Store, s3: S3Server, document: bytes, method: str, served: int
) -> None:
    # Given a proxy that answers 200 in the place of S3 to what stores the document, a part of it, or ends it
    left = served * [""]
    s3.fault = lambda asked, path: "" if asked != method else left.pop() if left else Foreign(200, b"<p>Welcome</p>")
    with pytest.raises(Unavailable, match="does not answer as S3 does"):
        store.put("job_1", document)
    s3.fault = lambda method, path: ""
    with pytest.raises(NotFound):
        store.get("job_1")
    assert uploads(s3) == 0


def test_a_large_document_whose_parts_are_gone_is_not_stored(store: S3Store, s3: S3Server) -> None:
    answers = iter(["", "NoSuchUpload"])
    s3.fault = lambda method, path: next(answers) if method == "POST" else ""
    with pytest.raises(Unavailable, match="has lost the parts of the document"):
        store.put("job_1", bytes(PART_BYTES))


def test_a_document_from_elsewhere_that_comes_in_chunks_is_no_larger_than_allowed(s3: S3Server, clock: Clock) -> None:
    bucket = Bucket(BUCKET, "The bucket", sleep=clock.sleep)
    s3.fault = lambda method, path: Foreign(200, DOCUMENT, (("ETag", '"1"'),), in_chunks=True)
    content = io.BytesIO()
    bucket.download("a.pdf", content, most_bytes=len(DOCUMENT), signed=False)
    assert content.getvalue() == DOCUMENT
    with pytest.raises(TooLarge):
        bucket.download("a.pdf", io.BytesIO(), most_bytes=len(DOCUMENT) - 1, signed=False)


def test_a_file_that_has_no_room_is_no_fault_of_the_store(store: S3Store, s3: S3Server, clock: Clock) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    store.put("job_1", DOCUMENT)
    with pytest.raises(OSError, match="No space left"):
        Bucket(BUCKET, "The bucket").download(s3.below(store.url)[0], Full())
    assert clock.slept == []


@pytest.mark.parametrize(
    ("changed", "url", "sentence"),
    [
        ({"KEY_ID": "AKIASTRANGER"}, "s3://scans/p", "s3://scans/p refuses the credentials (InvalidAccessKeyId)."),
        ({"KEY_ID": "", "SECRET": ""}, "s3://scans/p", "s3://scans/p was given no credentials."),
        (
            {"KEY_ID": "", "SECRET": "", "ROLE": "arn:aws:iam::1:role/pool", "TOKEN": "/nowhere/token"},
            "s3://scans/p",
            "s3://scans/p cannot be used as the AWS settings are (FileNotFoundError).",
        ),
        ({}, "s3://No.Bucket!", "s3://No.Bucket! cannot be used as the AWS settings are (ParamValidationError)."),
        ({}, "s3://nowhere", "s3://nowhere has no such bucket."),
        ({"ENDPOINT": "nonsense"}, "s3://scans", "s3://scans cannot be used as the AWS settings are: "),
    ],
)
def test_wrong_settings_are_told_at_once_in_one_sentence(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], url: str, sentence: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(VARIABLES[name], value)
    bucket = Bucket(url.split("/")[2], "The blob store", sleep=lambda seconds: pytest.fail("it was tried again"))
    with pytest.raises(Unavailable) as caught:
        S3Store(url, bucket=bucket).check()
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_link_is_read_without_credentials_at_the_address_that_clients_know(s3: S3Server) -> None:
    store = open_store(Settings(blob_url="s3://scans/links"))
    store.put("job_1", DOCUMENT)
    link = store.link("job_1", ttl_s=60)
    assert link is not None
    assert httpx.get(link).content == DOCUMENT
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["60"]
    link = store.link("job_1", 60, media_type="application/pdf", disposition='attachment; filename="a.pdf"')
    headers = httpx.get(str(link)).headers
    assert (headers["content-type"], headers["content-disposition"]) == (
        "application/pdf",
        'attachment; filename="a.pdf"',
    )

    store = open_store(Settings(blob_url="s3://scans/links", s3_public_url="https://files.example.com"))
    link = store.link("job_1", ttl_s=10**9)
    assert link is not None
    assert link.startswith("https://files.example.com/scans/links/job_1?")
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["604800"]
    assert store.get("job_1") == DOCUMENT


def test_without_boto3_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("boto3", "botocore", "botocore.exceptions", "botocore.parsers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=r"pip install 'ocrpool\[s3\]'"):
        S3Store("s3://scans").check()


class Patient(MemoryStore):
    """A store whose trouble the test decides."""

    trouble = ""
    looks = 0

    def check(self, *, patient: bool = True) -> None:
        self.looks += 1
        if self.trouble:
            raise Unavailable(self.trouble)


def test_a_probe_looks_once_in_a_while_and_one_thread_at_a_time() -> None:
    times, store = Clock(), Patient()
    probe = Probe(store, clock=lambda: times.now)
    assert (probe.trouble(), probe.trouble(), store.looks) == ("", "", 1)
    store.trouble = "It is down."
    assert probe.trouble() == ""
    times.now += FRESH_S
    assert (probe.trouble(), probe.trouble(), store.looks) == ("It is down.", "It is down.", 2)
    store.trouble = ""
    times.now += FRESH_S
    assert probe.trouble() == ""
