"""Clients that are slow or many, and a gateway that is killed or has no room: nothing is held, nothing is left."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlparse

import httpx
import pytest

from producer.blobs import FolderStore
from producer.gateway import server
from producer.job import new_job_id
from producer.ledger import ORPHAN_S, Ledger
from producer.processes import Process, free_port, listens
from producer.queue import Publisher
from producer.settings import Settings, as_environment
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, submit, wait_until
from worker.sweeper import LOOK_AGAIN_S, Sweeper

BOUNDARY = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
JSON = b"Content-Type: application/json\r\n"


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def connected(url: str) -> socket.socket:
    address = urlparse(url)
    return socket.create_connection((address.hostname, address.port or 0), timeout=30)


def begin_upload(url: str, head: bytes, body: bytes, length: int = 1_000_000) -> socket.socket:
    """A client that announces `length` bytes and sends `body` of them."""
    client = connected(url)
    client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n" + head + b"Content-Length: %d\r\n\r\n" % length + body)
    return client


def answer_and_end(client: socket.socket) -> bytes:
    """What the server says before it hangs up."""
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(("head", "body"), [(FORM, BOUNDARY), (JSON, b"{")], ids=["form", "json"])
def test_a_client_that_stops_sending_is_told_and_hung_up_on(settings: Settings, head: bytes, body: bytes) -> None:
    impatient = settings.model_copy(update={"upload_idle_s": 0.2, "max_document_bytes": 2_000_000})
    with Served(impatient) as served, begin_upload(served.url, head, body) as client:
        answer = answer_and_end(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"upload_timeout"' in answer


def test_a_client_that_drips_is_told_when_its_time_is_over(settings: Settings) -> None:
    slow = settings.model_copy(update={"upload_timeout_s": 0.5, "max_document_bytes": 2_000_000})
    with Served(slow) as served, begin_upload(served.url, JSON, b"{") as client:
        client.settimeout(0.02)
        answer = b""
        end = time.monotonic() + 30
        while not answer:
            assert time.monotonic() < end, "it may drip for ever"
            client.sendall(b" ")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_refused_upload_is_not_read_to_its_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNWANTED_S", 0.2)
    with Served(settings) as served, begin_upload(served.url, b"Content-Type: text/plain\r\n", b"slow") as client:
        assert answer_and_end(client).startswith(b"HTTP/1.1 415 ")


def test_a_refused_upload_that_goes_on_and_on_is_cut(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNWANTED_BYTES", 1_000_000)
    with Served(settings) as served, begin_upload(served.url, b"Content-Type: text/plain\r\n", b"x", 1 << 30) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 415 ")
        with pytest.raises(ConnectionError):
            client.sendall(bytes(1 << 29))


def test_whoever_sends_all_before_it_listens_is_told_of_a_refusal(settings: Settings) -> None:
    async def send_many(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            document = PDF.ljust(300_000, b"\0")
            return await asyncio.gather(*(http.post("/v1/jobs", files={"file": document}) for _ in range(20)))

    with Served(settings.model_copy(update={"api_keys": "on"})) as served:
        for answer in asyncio.run(send_many(served.url)):
            assert_problem(answer, 401, "unauthorized")


def test_what_is_no_http_is_answered_as_every_error(settings: Settings) -> None:
    with Served(settings) as served, connected(served.url) as client:
        client.sendall(b"GET / HTTP/1.1\r\nContent-Length: abc\r\n\r\n")
        head, _, body = answer_and_end(client).partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["code"] == "invalid_request"


def test_a_crowd_is_answered_unavailable_until_it_leaves(settings: Settings) -> None:
    with Served(settings.model_copy(update={"gateway_requests": 20, "max_document_bytes": 2_000_000})) as served:
        with ExitStack() as crowd:
            for _ in range(25):
                crowd.enter_context(begin_upload(served.url, JSON, b"{"))
            wait_until(lambda: served.http.get(f"/v1/jobs/{new_job_id()}").status_code == 503)
            refused = served.http.post("/v1/jobs", files={"file": ("a.png", PNG)})
            assert_problem(refused, 503, "unavailable")
            assert served.http.get("/healthz").status_code == 200
        wait_until(lambda: served.http.post("/v1/jobs", files={"file": ("a.png", PNG)}).status_code == 202)


@pytest.mark.parametrize("before", [0, 1])
def test_a_connection_that_does_not_ask_to_the_end_is_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.5)
    with Served(settings) as served, connected(served.url) as client:
        for _ in range(before):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        assert client.recv(1) == b""


def test_json_carries_less_than_a_form_and_says_so(settings: Settings) -> None:
    with Served(settings.model_copy(update={"max_json_document_bytes": 1000})) as served:
        for size, status in ((1000, 202), (1001, 413), (90_000, 413)):
            document = PDF.ljust(size, b"\0")
            answer = served.http.post("/v1/jobs", json={"document": base64.b64encode(document).decode()})
            assert answer.status_code == status
            if status == 413:
                assert "OCRPOOL_MAX_JSON_DOCUMENT_BYTES" in assert_problem(answer, 413, "too_large")["detail"]
        submit(served.http, document)


@pytest.fixture
def start_gateway(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., tuple[Process, str]]]:
    """Starts gateways as processes of their own, with a folder of their own for temporary files."""
    with ExitStack() as started:

        def start(temporary: Path) -> tuple[Process, str]:
            port = free_port()
            own = settings.model_copy(update={"gateway_port": port, "max_document_bytes": 100_000_000})
            environment = {**as_environment(own), "TMPDIR": str(temporary)}
            command = [sys.executable, "-P", "-m", "producer.gateway"]
            gateway = Process("gateway", command, tmp_path / "gateway.log", environment)
            started.callback(gateway.kill)
            gateway.wait_until(lambda: listens("127.0.0.1", port), timeout_s=30)
            return gateway, f"http://127.0.0.1:{port}"

        yield start


def sweep_as_if_an_hour_had_passed(ledger: Ledger, settings: Settings) -> None:
    garbage = f"{settings.namespace}:garbage"
    ledger.redis.zunionstore(garbage, {garbage: 0})
    for path in files_below(settings.blob_dir):
        os.utime(path, (1, time.time() - ORPHAN_S - 1))
    times = iter([0.0, LOOK_AGAIN_S, LOOK_AGAIN_S])
    publisher = Publisher(settings)
    Sweeper(ledger, publisher, FolderStore(settings.blob_dir), interval_s=3600, clock=lambda: next(times)).sweep()
    publisher.close()


def test_a_gateway_that_is_killed_under_uploads_leaves_nothing_after_a_sweep(
    settings: Settings, ledger: Ledger, tmp_path: Path, start_gateway: Callable[..., tuple[Process, str]]
) -> None:
    # Given a gateway to which documents are sent, one half way, and others written to the blob folder meanwhile
    (temporary := tmp_path / "temporary").mkdir()
    document = BOUNDARY + b"%PDF-1.7\n" + bytes(40_000_000) + b"\r\n--x--\r\n"
    for part in (30_000_000, len(document), len(document)):
        gateway, url = start_gateway(temporary)
        with begin_upload(url, FORM, b"", len(document)) as client:
            client.sendall(document[:part])
            if part == len(document):
                # When it is killed while it stores one
                wait_until(lambda: bool(files_below(settings.blob_dir)))
            gateway.kill()
    accepted = ledger.totals().get("jobs_accepted", 0)
    assert files_below(temporary) == []

    # Then, once their time is over, the folder is empty; those of accepted jobs are theirs
    sweep_as_if_an_hour_had_passed(ledger, settings)
    assert files_below(settings.blob_dir) == []
    assert ledger.redis.zcard(f"{settings.namespace}:garbage") == 0
    assert accepted <= 2


def test_a_blob_whose_job_was_never_accepted_goes_and_one_with_a_job_stays(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served:
        job_id = submit(served.http)
    blobs = FolderStore(settings.blob_dir)
    ledger.expect_blob("job_orphan")
    blobs.put("job_orphan", b"document")
    garbage = f"{settings.namespace}:garbage"
    seconds, _ = ledger.redis.time()
    assert 0 < (ledger.redis.zscore(garbage, "job_orphan") or 0) - 1000 * seconds <= 1000 * (ORPHAN_S + 1)
    assert (ledger.redis.zscore(garbage, job_id) or 0) > 1000 * (seconds + 2 * ORPHAN_S)


def post(url: str, size_bytes: int, *, as_json: bool = False) -> httpx.Response:
    document = PDF.ljust(size_bytes, b"\0")
    if as_json:
        body = {"document": base64.b64encode(document).decode()}
        return httpx.post(f"{url}/v1/jobs", json=body, timeout=60)
    return httpx.post(f"{url}/v1/jobs", files={"file": ("a.pdf", document)}, timeout=60)


def test_without_room_for_uploads_the_gateway_asks_to_come_back(
    settings: Settings, tiny: Path, start_gateway: Callable[..., tuple[Process, str]]
) -> None:
    _, url = start_gateway(tiny)
    for as_json in (False, True):
        assert_problem(post(url, 7_000_000, as_json=as_json), 503, "unavailable")
        assert files_below(tiny) == files_below(settings.blob_dir) == []
        assert os.statvfs(tiny).f_bfree == os.statvfs(tiny).f_blocks
    assert post(url, 2_000_000).status_code == 202


def test_a_full_blob_folder_asks_to_come_back_and_keeps_nothing(settings: Settings, tiny: Path) -> None:
    full = settings.model_copy(update={"blob_url": f"file://{tiny}", "max_document_bytes": 20_000_000})
    with Served(full) as served:
        assert_problem(post(served.url, 7_000_000), 503, "unavailable")
        assert files_below(tiny) == []
        assert post(served.url, 2_000_000).status_code == 202
