"""PaddleOCR's job API beneath its client: envelopes, states, and addresses that need no token."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlparse, urlsplit

import httpx
import pytest

from producer.errors import Unauthorized
from producer.gateway.signing import SignedUrls
from producer.ledger import Ledger
from producer.settings import Settings
from tests.http_site import Site, reply
from tests.producer.gateway.serving import PDF, PNG, Served, count_pages, read_pages

JOBS = "/api/v2/ocr/jobs"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"paddleocr_models": ("PP-OCRv6",)})


def submit(http: httpx.Client, document: bytes = PNG, **fields: str) -> str:
    answer = http.post(JOBS, files={"file": ("a.png", document)}, data={"model": "PP-OCRv6", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"] == 0
    return str(answer.json()["data"]["jobId"])


def status(http: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"{JOBS}/{job_id}").json()["data"]
    return found


def assert_refused(answer: httpx.Response, status: int, says: str) -> None:
    """Check that the error is one of PaddleOCR's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["code"] == status
    assert says in told["msg"]


def test_a_job_passes_through_its_states(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http, PDF, pageRanges="1-3")
    assert status(http, job_id)["state"] == "pending"
    count_pages(ledger, job_id, pages=3)
    counted = status(http, job_id)
    assert counted["state"] == "running"
    assert (counted["extractProgress"]["totalPages"], counted["extractProgress"]["extractedPages"]) == (3, 0)
    assert "resultUrl" not in counted

    read_pages(ledger, job_id, "1+3", failing={2})

    ended = status(http, job_id)
    assert ended["state"] == "done"
    assert ended["errorMsg"] == "1 of 3 pages could not be read."
    assert ended["extractProgress"]["extractedPages"] == 2
    lines = [json.loads(line) for line in http.get(ended["resultUrl"]["jsonUrl"]).text.splitlines()]
    assert [len(line["result"]["ocrResults"]) for line in lines] == [1, 1, 1]
    assert lines[0]["result"]["dataInfo"]["numPages"] == 3
    (failed,) = lines[1]["result"]["ocrResults"]
    assert failed["prunedResult"] == {"error": {"code": "corrupt_document", "message": "The page is damaged."}}
    assert failed["ocrImage"] is None


def test_a_cancelled_job_has_failed_and_says_why(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http)
    ledger.cancel(job_id)
    cancelled = status(http, job_id)
    assert (cancelled["state"], cancelled["errorMsg"]) == ("failed", "The job was cancelled.")


def test_a_signed_address_is_good_for_its_path_and_time_alone(http: httpx.Client, ledger: Ledger) -> None:
    job_id, other = submit(http), submit(http)
    for one in (job_id, other):
        read_pages(ledger, one)
    url = status(http, job_id)["resultUrl"]["jsonUrl"]
    assert http.get(url).status_code == 200
    assert_refused(http.get(url.replace(job_id, other)), 401, "not one that this pool has signed")
    expires = parse_qs(urlsplit(url).query)["expires"][0]
    assert_refused(http.get(url.replace(expires, str(int(expires) + 1))), 401, "not one that this pool has signed")
    assert_refused(http.get(url[:-1] + "é"), 401, "not one that this pool has signed")
    assert_refused(http.get(url.partition("?")[0]), 400, "expires: ")


def test_a_signed_address_expires(settings: Settings, ledger: Ledger) -> None:
    now = 1_000_000.0
    urls = SignedUrls(settings.model_copy(update={"signed_url_ttl_s": 60}), ledger, clock=lambda: now)
    query = parse_qs(urlsplit(urls.signer("http://gateway/")("/path")).query)
    expires, signature = int(query["expires"][0]), query["signature"][0]
    now += 59.5
    urls.check("/path", expires, signature)
    now += 1
    with pytest.raises(Unauthorized, match="has expired"):
        urls.check("/path", expires, signature)


def test_gateways_of_one_pool_agree(served: Served, settings: Settings, ledger: Ledger) -> None:
    job_id = submit(served.http)
    read_pages(ledger, job_id)
    with Served(settings.model_copy(update={"public_url": "https://ocr.example.com/pool/"})) as other:
        url = status(other.http, job_id)["resultUrl"]["jsonUrl"]
    assert url.startswith(f"https://ocr.example.com/pool{JOBS}/{job_id}/result.jsonl?")
    parts = urlparse(url)
    assert served.http.get(f"{parts.path.removeprefix('/pool')}?{parts.query}").status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({}, 400, "model: field required"),
        ({"model": "PP-OCRv6", "colour": "red"}, 400, "colour: this pool has no such option"),
        ({"model": "PP-OCRv6", "optionalPayload": "{"}, 400, "optionalPayload: not valid JSON"),
        ({"model": "PP-OCRv6", "optionalPayload": "[1]"}, 400, "optionalPayload: an object is wanted."),
        ({"model": "PP-OCRv6", "optionalPayload": f'{{"x": "{"y" * 9000}"}}'}, 400, "optionalPayload: at most 8,192"),
        ({"model": "PP-OCRv6", "pageRanges": "2"}, 400, "pageRanges: the document has 1, and none of 2."),
        ({"model": "PP-OCRv6", "pageRanges": "1-1000000"}, 400, "pageRanges: pages from 1 to 999,999"),
        ({"model": "PP-OCRv6", "batchId": ".."}, 400, "batchId: "),
        ({"model": "PP-OCRv6", "optionalPayload": '{"textDetThresh": "x"}'}, 400, "optionalPayload.textDetThresh: "),
        ({"model": "PP-OCRv6", "fileUrl": "https://example.com/a.pdf"}, 400, "fileUrl: give the document either"),
    ],
)
def test_fields_at_fault(http: httpx.Client, fields: dict[str, str], status: int, says: str) -> None:
    assert_refused(http.post(JOBS, files={"file": ("a.png", PNG)}, data=fields), status, says)


def test_documents_at_fault(http: httpx.Client) -> None:
    def sent(document: bytes) -> httpx.Response:
        return http.post(JOBS, files={"file": ("a.png", document)}, data={"model": "PP-OCRv6"})

    assert_refused(sent(b"just text"), 400, "neither a PDF nor")
    assert_refused(sent(PNG + bytes(100_000)), 400, "bytes")
    assert_refused(http.post(JOBS, data={"model": "PP-OCRv6"}), 400, "Send the document as multipart/form-data")
    assert_refused(http.get(f"{JOBS}/batch/nobody"), 404, "no such batch")
    assert_refused(http.get(f"{JOBS}/1"), 404, "no such job")
    assert_refused(http.put(JOBS), 405, "PUT")
    assert_refused(http.get("/api/v2/ocr"), 404, "nothing at this address")


def test_a_document_is_fetched_from_its_address(settings: Settings, ledger: Ledger) -> None:
    asked = {"model": "PP-OCRv6", "optionalPayload": {"visualize": False}}
    with (
        Site(reply(200, PDF)) as site,
        Served(settings.model_copy(update={"fetch_allow": ("127.0.0.1",)})) as served,
    ):
        url = f"http://127.0.0.1:{site.port}/in/report.pdf?token=1"
        job_id = served.http.post(JOBS, json={**asked, "fileUrl": url, "batchId": "of.mine"}).json()["data"]["jobId"]
        followed = served.http.get(f"{JOBS}/batch/of.mine").json()["data"]["extractResult"]
    job = ledger.job(job_id)
    assert (job.name, job.media_type, job.options.visualize) == ("report.pdf", "application/pdf", False)
    assert [one["jobId"] for one in followed] == [job_id]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://169.254.169.254/latest", "fetch_forbidden"),
        ("HTTPS://169.254.169.254/latest", "fetch_forbidden"),
        ("https://[::1]/", "fetch_forbidden"),
        ("/etc/passwd", "invalid_request"),
        ("file:///etc/passwd", "invalid_request"),
    ],
)
def test_inner_addresses_and_paths_are_not_fetched(http: httpx.Client, ledger: Ledger, url: str, code: str) -> None:
    refused = http.post(JOBS, json={"model": "PP-OCRv6", "fileUrl": url})
    assert_refused(refused, 400, "fileUrl: ")
    assert refused.json()["error"] == code
    assert ledger.backlog()["unfinished"] == 0


def test_refusals_leave_nothing_behind(http: httpx.Client, ledger: Ledger, settings: Settings) -> None:
    http.post(JOBS, files={"file": ("a.png", PNG)}, data={"model": "PP-OCRv5"})
    http.post(JOBS, files={"file": ("a.png", PNG)}, data={"model": "PP-OCRv6", "pageRanges": "9"})
    assert ledger.backlog()["unfinished"] == 0
    assert not [path for path in settings.blob_dir.rglob("*") if path.is_file()]
