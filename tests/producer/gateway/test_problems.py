"""Every refusal is a problem document with a code, one sentence and the right status."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import httpx
import pytest

from producer.gateway.documents import OVERHEAD_BYTES
from producer.job import JobResult, JobStatus, new_job_id
from producer.producer import Producer
from producer.settings import Settings
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, submit, wait_until

LIMIT = 100_000
FILE = {"file": ("a.png", PNG)}


@pytest.fixture(scope="module")
def shared(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway for all refusals: none of them leaves anything behind."""
    settings = Settings(
        redis_url=redis_url,
        namespace=f"t{uuid.uuid4().hex[:12]}",
        data_dir=tmp_path_factory.mktemp("problems"),
        gateway_port=0,
        max_document_bytes=LIMIT,
    )
    with Served(settings) as served:
        yield served


@pytest.fixture
def http(shared: Served) -> httpx.Client:
    return shared.http


@pytest.mark.parametrize(
    ("request_line", "status", "code", "says"),
    [
        ("GET /nothing/here", 404, "not_found", "address"),
        ("GET /v1/jobs/", 404, "not_found", "address"),
        ("PUT /v1/jobs", 405, "invalid_request", "PUT"),
        ("GET /v1/jobs/1", 404, "not_found", "no such job"),
        ("GET /v1/jobs/job_" + "A" * 32, 404, "not_found", "no such job"),
        (f"GET /v1/jobs/{new_job_id()}", 404, "not_found", "no job"),
        (f"GET /v1/jobs/{new_job_id()}?wait=5", 404, "not_found", "no job"),
        (f"GET /v1/jobs/{new_job_id()}/result", 404, "not_found", "no job"),
        (f"DELETE /v1/jobs/{new_job_id()}", 404, "not_found", "no job"),
        (f"GET /v1/jobs/{new_job_id()}?wait=soon", 422, "invalid_request", "wait: "),
        (f"GET /v1/jobs/{new_job_id()}?wait=-1", 422, "invalid_request", "wait: "),
        (f"GET /v1/jobs/{new_job_id()}?wait=nan", 422, "invalid_request", "wait: "),
        (f"GET /v1/jobs/{new_job_id()}/result?format=xml", 422, "invalid_request", "format: "),
        ("POST /v1/jobs", 415, "unsupported_media_type", "multipart/form-data or application/json"),
        ("POST /ocr", 415, "unsupported_media_type", "multipart/form-data"),
    ],
)
def test_addresses_and_parameters(http: httpx.Client, request_line: str, status: int, code: str, says: str) -> None:
    method, path = request_line.split(" ")
    assert says in assert_problem(http.request(method, path), status, code)["detail"]


def test_a_method_that_is_not_answered_is_told_which_are(http: httpx.Client) -> None:
    for path, allowed in (("/v1/jobs", "GET, POST"), ("/v1/jobs/1", "DELETE, GET"), ("/ocr", "POST")):
        assert http.patch(path).headers["allow"] == allowed


@pytest.mark.parametrize(
    ("form", "status", "code", "says"),
    [
        ({"files": {"file": ("a.png", b"")}}, 422, "corrupt_document", "empty"),
        ({"files": {"file": ("a.png", b"just text")}}, 415, "unsupported_media_type", "neither"),
        ({"files": {"page": ("a.png", PNG)}}, 422, "invalid_request", "file: "),
        ({"files": {"file": (None, "text")}}, 422, "invalid_request", "file: "),
        ({"files": FILE, "data": {"min_score": "2"}}, 422, "invalid_request", "min_score: "),
        ({"files": FILE, "data": {"deadline_s": "nan"}}, 422, "invalid_request", "deadline_s: "),
        ({"files": FILE, "data": {"lane": "quarantine"}}, 422, "invalid_request", "lane: "),
        ({"files": FILE, "data": {"colour": "red"}}, 422, "invalid_request", "colour: "),
        ({"files": FILE, "data": {"pages": "9-3"}}, 422, "invalid_request", "pages: pages from 1 to 999,999"),
        (
            {"files": FILE, "data": {"lane": ["bulk", "bulk"]}},
            422,
            "invalid_request",
            "lane: the form names this field twice.",
        ),
        (
            {"files": FILE, "data": {"lane": "x"}},
            422,
            "invalid_request",
            "lane: input should be 'interactive' or 'bulk'.",
        ),
        ({"files": FILE, "data": {"name": "x" * 256}}, 422, "invalid_request", "name: "),
        ({"files": FILE, "data": {"name": "x" * 9000}}, 422, "invalid_request", "name: at most 8,192 bytes."),
        ({"files": FILE, "data": {f"f{n}": "" for n in range(40)}}, 422, "invalid_request", "Too many fields"),
        ({"files": [("file", ("a.png", PNG)), ("file", ("b.png", PNG))]}, 422, "invalid_request", "Too many files"),
        (
            {"content": b"--x\r\nno part", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            422,
            "invalid_request",
            "form",
        ),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 422, "invalid_request", "boundary"),
    ],
)
def test_forms(http: httpx.Client, form: dict[str, Any], status: int, code: str, says: str) -> None:
    for path in ("/v1/jobs", "/ocr"):
        assert says in assert_problem(http.post(path, **form), status, code)["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ("{", 422, "invalid_request", "JSON"),
        ("[]", 422, "invalid_request", "object"),
        ("{}", 422, "invalid_request", "document: "),
        ('{"document": "%%%"}', 422, "invalid_request", "document: "),
        ('{"document": "YWJj\\u00e9"}', 422, "invalid_request", "document: "),
        ('{"document": ""}', 422, "corrupt_document", "empty"),
        ('{"document": "YWJj"}', 415, "unsupported_media_type", "neither"),
        ('{"document": "YWJj", "options": {"min_score": 2}}', 422, "invalid_request", "options.min_score: "),
        ('{"document": "YWJj", "extra": 1}', 422, "invalid_request", "extra: "),
    ],
)
def test_json(http: httpx.Client, body: str, status: int, code: str, says: str) -> None:
    answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert says in assert_problem(answer, status, code)["detail"]


@pytest.mark.parametrize("extra_bytes", [0, 1, OVERHEAD_BYTES])
def test_a_document_is_refused_from_its_first_byte_too_many(http: httpx.Client, extra_bytes: int) -> None:
    document = PDF.ljust(LIMIT + extra_bytes, b"\0")
    as_form = http.post("/v1/jobs", files={"file": ("a.pdf", document)})
    as_json = http.post("/v1/jobs", json={"document": base64.b64encode(document).decode()})
    for answer in (as_form, as_json):
        if extra_bytes:
            assert str(LIMIT) in assert_problem(answer, 413, "too_large")["detail"]
        else:
            assert answer.status_code == 202


def test_an_announced_giant_is_refused_before_it_is_sent(shared: Served) -> None:
    address = urlparse(shared.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        # The server answers and hangs up, although it was sent nothing of the body.
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
def test_an_endless_body_is_cut_off(http: httpx.Client, kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            sent += 1
            assert sent < 100_000, "the server reads on and on"
            yield bytes(65536)

    answer = http.post("/v1/jobs", content=endless(), headers={"Content-Type": kind})
    assert_problem(answer, 413, "too_large")


def test_a_client_that_hangs_up_leaves_nothing_behind(shared: Served) -> None:
    address = urlparse(shared.url)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%PDF-'
    with socket.create_connection((address.hostname, address.port or 0), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body
        )
    wait_until(lambda: 'status="499"' in shared.http.get("/metrics").text)


class _Broken(Producer):
    """A producer with a bug."""

    def status(self, job_id: str) -> JobStatus:
        raise RuntimeError("secret /etc/inner")

    def result(self, job_id: str) -> JobResult:
        raise RuntimeError("secret /etc/inner")


@pytest.mark.parametrize("path", ["", "?wait=5", "/result"])
def test_a_bug_answers_internal_and_tells_nothing(settings: Settings, path: str) -> None:
    with _Broken(settings) as broken, Served(settings, broken) as served:
        answer = served.http.get(f"/v1/jobs/{new_job_id()}{path}")
        assert "secret" not in answer.text
        assert_problem(answer, 500, "internal")


def test_a_full_pool_and_an_absent_redis_ask_to_come_back(settings: Settings) -> None:
    with Served(settings.model_copy(update={"max_queued_jobs": 1})) as served:
        submit(served.http)
        assert_problem(served.http.post("/v1/jobs", files=FILE), 429, "queue_full")
    with Served(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as served:
        for path in ("/v1/jobs", "/ocr"):
            assert_problem(served.http.post(path, files=FILE), 503, "unavailable")
        assert_problem(served.http.get(f"/v1/jobs/{new_job_id()}?wait=5"), 503, "unavailable")
