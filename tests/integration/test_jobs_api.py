"""The jobs API in front of a real worker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from producer import Producer
from producer.embedded import Embedded
from tests.documents import png, tiff


@pytest.fixture(scope="module")
def http(pool: Producer) -> Iterator[httpx.Client]:
    with (
        Embedded(pool.settings.model_copy(update={"gateway_port": 0})) as parts,
        httpx.Client(base_url=parts.start_gateway(), timeout=120) as client,
    ):
        yield client


def ended(http: httpx.Client, job_id: str) -> str:
    return str(http.get(f"/v1/jobs/{job_id}", params={"wait": 60}).json()["state"])


def test_the_documents_of_a_batch_are_read(http: httpx.Client) -> None:
    files = [("file", (f"{word}.png", png(word))) for word in ("PILOT", "HARBOUR")]
    batch = http.post("/v1/batches", files=files)
    jobs = [document["job"]["id"] for document in batch.json()["documents"]]
    assert [ended(http, job) for job in jobs] == ["succeeded", "succeeded"]
    texts = [http.get(f"/v1/jobs/{job}/pages").json()["pages"][0]["text"] for job in jobs]
    assert texts == ["PILOT", "HARBOUR"]
    assert http.get(batch.headers["location"]).json()["states"] == {"succeeded": 2}


def test_a_job_that_is_cancelled_makes_way_soon(http: httpx.Client) -> None:
    # Given a job of 300 pages, of which the worker has read some
    pages = tiff([f"sheet number {number}" for number in range(300)])
    job = http.post("/v1/jobs", files={"file": ("long.tiff", pages)}).json()["links"]["self"]
    while (status := http.get(job).json())["pages_done"] < 10:
        assert status["state"] in {"queued", "running"}
        time.sleep(0.05)
    a_page_takes_s = (time.time() - status["started_at"]) / status["pages_done"]
    # When it is cancelled, and another document is handed in
    cancelled = http.delete(job).json()
    began = time.monotonic()
    other = http.post("/v1/jobs", files={"file": ("next.png", png("NEXT"))}).json()["id"]
    assert ended(http, other) == "succeeded"
    # Then that is read long before the rest of the first would have been
    assert time.monotonic() - began < (300 - cancelled["pages_done"]) * a_page_takes_s / 4
    now = http.get(job).json()
    assert (now["state"], now["pages_done"]) == ("cancelled", cancelled["pages_done"])
