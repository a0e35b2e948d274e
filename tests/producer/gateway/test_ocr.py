"""`POST /ocr`: one request, one answer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import httpx
import pytest

from producer.ledger import Ledger
from producer.settings import Settings
from tests.producer.gateway.serving import PNG, Served, assert_problem, read_pages, wait_until

Reading = Callable[[], tuple[Future[httpx.Response], str]]


@pytest.fixture
def reading(served: Served, ledger: Ledger) -> Iterator[Reading]:
    """Begins a request, and returns it with its job's id once it waits."""

    def begin() -> tuple[Future[httpx.Response], str]:
        answer = pool.submit(served.http.post, "/ocr", files={"file": ("a.png", PNG)})
        wait_until(lambda: served.waiting == 1)
        (job,) = cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:active", 0, -1))
        return answer, job.decode()

    with ThreadPoolExecutor(1) as pool:
        yield begin


def test_it_answers_the_pages(reading: Reading, ledger: Ledger) -> None:
    answer, job_id = reading()
    read_pages(ledger, job_id)
    result = answer.result().json()["result"]
    assert (result["id"], result["state"]) == (job_id, "succeeded")
    assert result["pages"][0]["text"] == "page 1: 合计 12.50"


def test_a_failed_document_answers_its_own_error(reading: Reading, ledger: Ledger) -> None:
    answer, job_id = reading()
    read_pages(ledger, job_id, failing={1})
    problem = assert_problem(answer.result(), 422, "corrupt_document")
    assert problem["detail"] == "The page is damaged."
    assert problem["instance"] == answer.result().headers["location"] == f"/v1/jobs/{job_id}"


def test_one_key_is_one_job_for_forms_and_for_json(served: Served, ledger: Ledger) -> None:
    key = {"Idempotency-Key": "a-17"}

    def ask(document: bytes) -> httpx.Response:
        return served.http.post("/ocr", files={"file": ("a.png", document)}, headers=key)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, PNG)
        wait_until(lambda: served.waiting == 1)
        (job,) = cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:active", 0, -1))
        read_pages(ledger, job.decode())
        assert first.result().json()["result"]["id"] == job.decode()
    assert ask(PNG).json()["result"]["id"] == job.decode()
    assert_problem(ask(PNG + b" "), 422, "idempotency_mismatch")
    told = served.http.post("/ocr", json={"file": base64.b64encode(PNG).decode()}, headers=key)
    assert (told.status_code, told.json()["error"]) == (422, "idempotency_mismatch")  # Its name is another.
    assert ledger.totals()["jobs_accepted"] == 1


def test_a_cancelled_job_answers_so(reading: Reading, ledger: Ledger) -> None:
    answer, job_id = reading()
    ledger.cancel(job_id)
    assert_problem(answer.result(), 409, "cancelled")


def test_a_document_that_takes_too_long_answers_where_its_job_is(settings: Settings, ledger: Ledger) -> None:
    with Served(settings.model_copy(update={"max_wait_s": 0.01})) as served:
        late = served.http.post("/ocr", files={"file": ("a.png", PNG)})
        assert_problem(late, 504, "deadline_exceeded")
        # The job goes on
        assert served.http.get(late.headers["location"]).json()["state"] == "queued"
