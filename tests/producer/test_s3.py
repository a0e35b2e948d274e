"""The S3 store where its server, the way to it or its settings are at fault. The rest is in the stores' contract."""

from __future__ import annotations

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
from producer.errors import NotFound, Unavailable
from producer.s3 import CHUNK_BYTES, PART_BYTES, PAUSES_S, Bucket, S3Store
from producer.settings import Settings
from tests.chaos.proxy import Proxy
from tests.s3_server import BUCKET, Fault, S3Server

DOCUMENT = b"%PDF-1.7 " + bytes(1000)
VARIABLES = {
    "KEY_ID": "AWS_ACCESS_KEY_ID",
    "SECRET": "AWS_SECRET_ACCESS_KEY",
    "ENDPOINT": "AWS_ENDPOINT_URL_S3",
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


def first(times: int, code: str, only: str = "") -> Fault:
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
    assert clock.slept == list(PAUSES_S)
    assert len(s3.seen) == len(PAUSES_S) + 1


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
    assert clock.slept == list(PAUSES_S)


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
    assert clock.slept == 2 * list(PAUSES_S)


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


@pytest.mark.parametrize(
    ("changed", "url", "sentence"),
    [
        ({"KEY_ID": "AKIASTRANGER"}, "s3://scans/p", "s3://scans/p refuses the credentials (InvalidAccessKeyId)."),
        ({"KEY_ID": "", "SECRET": ""}, "s3://scans/p", "s3://scans/p was given no credentials."),
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
