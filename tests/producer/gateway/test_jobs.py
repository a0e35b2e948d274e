"""The jobs API as a client uses it."""

from __future__ import annotations

import base64
import random

import httpx
import pytest

from producer.blobs import FolderStore
from producer.idempotency import named
from producer.job import PREPARE, JobResult
from producer.ledger import Claim, Ledger
from producer.settings import Settings
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, count_pages, read_pages, submit


def test_a_form_says_what_becomes_of_a_pdfs_own_text(http: httpx.Client, ledger: Ledger) -> None:
    claim = ledger.claim(submit(http, PDF, pdf_text="auto"), PREPARE, "test")
    assert isinstance(claim, Claim)
    assert claim.job.options.pdf_text == "auto"

    refused = http.post("/v1/jobs", files={"file": ("a.pdf", PDF)}, data={"pdf_text": "maybe"})
    assert "pdf_text" in assert_problem(refused, 422, "invalid_request")["detail"]


def test_a_document_goes_from_handed_in_to_text(http: httpx.Client, ledger: Ledger) -> None:
    # Given a PDF that was handed in
    answer = http.post("/v1/jobs", files={"file": ("../in/voice.pdf", PDF)}, data={"lane": "bulk", "deadline_s": ""})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (job["state"], job["name"], job["pages_total"]) == ("queued", "voice.pdf", None)
    assert ledger.backlog()["queue_bulk"] == 1

    # When a worker has counted its pages and read some of them
    count_pages(ledger, job["id"], 10)
    read_pages(ledger, job["id"], "1+8")
    # Then the status tells the progress, and the result is not there yet
    status = http.get(answer.headers["location"])
    assert status.headers["retry-after"]
    assert (status.json()["state"], status.json()["pages_done"], status.json()["pages_total"]) == ("running", 8, 10)
    assert_problem(http.get(job["links"]["result"]), 409, "not_finished")

    # When the last pages are read, one of them in vain
    read_pages(ledger, job["id"], "9+2", failing={10})
    # Then the job is partial, and its result has every page
    status = http.get(answer.headers["location"])
    assert status.json()["state"] == "partial"
    assert "retry-after" not in status.headers
    result = JobResult.model_validate_json(http.get(job["links"]["result"]).content)
    assert [page.page for page in result.pages] == list(range(1, 11))
    assert [page.kind for page in result.pages] == ["page"] * 9 + ["failure"]


@pytest.mark.parametrize("asking", [{"params": {"format": "text"}}, {"headers": {"Accept": "text/plain"}}])
def test_a_result_can_be_plain_text(http: httpx.Client, ledger: Ledger, asking: dict[str, dict[str, str]]) -> None:
    job_id = submit(http, PDF)
    count_pages(ledger, job_id, 3)
    read_pages(ledger, job_id, "1+3", failing={2})
    answer = http.get(f"/v1/jobs/{job_id}/result", **asking)  # type: ignore[arg-type]
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "page 1: 合计 12.50\n\npage 3: 合计 12.50"
    assert answer.headers["ocrpool-pages-failed"] == "1"


def test_a_job_without_any_page_is_never_an_empty_text(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http)
    read_pages(ledger, job_id, failing={1})
    problem = assert_problem(http.get(f"/v1/jobs/{job_id}/result?format=text"), 422, "corrupt_document")
    assert problem["instance"] == f"/v1/jobs/{job_id}"
    assert http.get(f"/v1/jobs/{job_id}/result").json()["pages"][0]["error"]["code"] == "corrupt_document"


def test_json_hands_in_the_same_document(http: httpx.Client, ledger: Ledger) -> None:
    document = base64.b64encode(PNG).decode()
    answer = http.post("/v1/jobs", json={"document": document, "name": "a.png", "options": {"lane": "bulk"}})
    assert answer.status_code == 202
    assert (answer.json()["name"], answer.json()["pages_total"]) == ("a.png", 1)
    assert ledger.backlog()["queue_bulk"] == 1


def test_cancelling_stops_a_job_once_and_leaves_an_ended_one_alone(http: httpx.Client, ledger: Ledger) -> None:
    # Given one job that waits and one that has ended
    waiting, ended = submit(http), submit(http)
    read_pages(ledger, ended)
    # When both are cancelled, the first twice
    answers = [http.delete(f"/v1/jobs/{job_id}") for job_id in (waiting, waiting, ended)]
    # Then only the first was stopped
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["state"] for answer in answers] == ["cancelled", "cancelled", "succeeded"]
    assert answers[0].json()["error"]["code"] == "cancelled"


@pytest.mark.parametrize("size_bytes", [10, 5_000_000])
def test_a_document_of_any_size_arrives_byte_for_byte(settings: Settings, size_bytes: int) -> None:
    settings = settings.model_copy(update={"max_document_bytes": 10_000_000})
    document = PDF + random.Random(size_bytes).randbytes(size_bytes)
    with Served(settings) as served:
        job_id = submit(served.http, document)
    assert FolderStore(settings.blob_dir).get(job_id) == document


def test_a_request_that_is_sent_again_under_its_key_is_one_job(http: httpx.Client) -> None:
    def send(document: bytes, key: str = "a-17") -> httpx.Response:
        return http.post("/v1/jobs", files={"file": ("a.png", document)}, headers={"Idempotency-Key": key})

    first, again = send(PNG), send(PNG)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert_problem(send(PDF), 422, "idempotency_mismatch")
    assert_problem(send(PNG, key=""), 422, "invalid_request")
    assert send(PDF, key="a-18").json()["id"] != first.json()["id"]


def test_a_second_request_under_the_key_of_one_that_still_comes_in_is_told_so(
    http: httpx.Client, ledger: Ledger
) -> None:
    headers = {"Idempotency-Key": "a-17"}
    with ledger.sole_use(named("a-17")):
        answer = http.post("/v1/jobs", files={"file": ("a.png", PNG)}, headers=headers)
        assert_problem(answer, 409, "request_in_progress")
    assert http.post("/v1/jobs", files={"file": ("a.png", PNG)}, headers=headers).status_code == 202


def test_some_pages_of_a_document(http: httpx.Client, ledger: Ledger) -> None:
    # Given a PDF of twelve pages, of which some are asked for, and one more than there are
    answer = http.post("/v1/jobs", files={"file": ("a.pdf", PDF)}, data={"pages": "11-13,2"})
    job_id = answer.json()["id"]
    count_pages(ledger, job_id, 12)
    assert http.get(f"/v1/jobs/{job_id}").json()["pages_total"] == 3
    # When those are read
    read_pages(ledger, job_id, "2+1")
    read_pages(ledger, job_id, "11+2")
    # Then the job has succeeded, and its pages have the document's numbers
    result = http.get(f"/v1/jobs/{job_id}/result").json()
    assert result["state"] == "succeeded"
    assert [page["page"] for page in result["pages"]] == [2, 11, 12]


def test_pages_that_are_not_there(http: httpx.Client) -> None:
    for pages in ("2", "0-3"):
        answer = http.post("/v1/jobs", files={"file": ("a.png", PNG)}, data={"pages": pages})
        assert assert_problem(answer, 422, "invalid_request")["detail"].startswith("pages: ")
