"""Many documents in one request, and lists of jobs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from producer.batches import Asked, Storing
from producer.errors import InvalidRequest, OcrpoolError, QueueFull, TooLarge
from producer.idempotency import named
from producer.job import JobState, JobStatus
from producer.ledger import Ledger
from producer.producer import JobHandle, Producer
from producer.queue import Publisher
from producer.settings import Settings
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, count_pages, read_pages, submit
from tests.producer.test_ledger import make_job
from tests.test_architecture import ROOT


def files(*documents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}.bin", document)) for number, document in enumerate(documents)]


def stored(ledger: Ledger) -> int:
    return sum(path.is_file() for path in ledger.settings.blob_dir.rglob("*"))


def test_each_document_of_a_batch_is_accepted_or_refused_on_its_own(http: httpx.Client, ledger: Ledger) -> None:
    # Given two documents that can be read, and three that cannot
    answer = http.post(
        "/v1/batches", files=files(PNG, b"", b"no such type", PDF, PDF.ljust(100_001)), data={"lane": "bulk"}
    )
    assert answer.status_code == 202
    batch = answer.json()
    assert (batch["accepted"], batch["refused"]) == (2, 3)
    assert [document["name"] for document in batch["documents"]] == [f"{number}.bin" for number in range(5)]
    codes = [document["problem"] and document["problem"]["code"] for document in batch["documents"]]
    assert codes == [None, "corrupt_document", "unsupported_media_type", None, "too_large"]
    first, second = (batch["documents"][place]["job"] for place in (0, 3))
    assert first["batch"] == batch["id"]
    assert (ledger.backlog()["queue_bulk"], stored(ledger)) == (2, 2)
    # When one is read, then the batch tells so
    url = answer.headers["location"]
    assert url == f"/v1/batches/{batch['id']}"
    read_pages(ledger, first["id"])
    found = http.get(url)
    assert found.json()["states"] == {"succeeded": 1, "queued": 1}
    assert [job["id"] for job in found.json()["jobs"]] == [first["id"], second["id"]]
    assert not found.json()["final"]
    assert found.headers["retry-after"]
    # And when both have ended
    count_pages(ledger, second["id"], 1)
    read_pages(ledger, second["id"])
    assert http.get(url).json()["final"]
    assert "retry-after" not in http.get(url).headers


@pytest.mark.parametrize(
    ("form", "status", "code", "says"),
    [
        ({"files": files(*[PNG] * 4)}, 422, "invalid_request", "3"),
        ({"data": {"lane": "bulk"}, "files": {"other": b"x"}}, 422, "invalid_request", "file: "),
        ({"files": files(PNG), "data": {"lane": "express"}}, 422, "invalid_request", "lane: "),
        ({"files": files(PNG), "data": {"name": "a.png"}}, 422, "invalid_request", "name: "),
        ({"files": files(PDF.ljust(90_000), PDF.ljust(90_000))}, 413, "too_large", "OCRPOOL_MAX_BATCH_BYTES"),
        ({"json": {}}, 415, "unsupported_media_type", "multipart/form-data"),
    ],
)
def test_a_form_that_is_none_is_refused_whole(
    settings: Settings, ledger: Ledger, *, form: dict[str, Any], status: int, code: str, says: str
) -> None:
    with Served(settings.model_copy(update={"max_batch_documents": 3, "max_batch_bytes": 150_000})) as served:
        assert says in assert_problem(served.http.post("/v1/batches", **form), status, code)["detail"]
    assert (ledger.backlog()["unfinished"], stored(ledger)) == (0, 0)


def test_a_pool_that_gets_full_takes_what_it_can(settings: Settings, ledger: Ledger) -> None:
    with Served(settings.model_copy(update={"max_queued_jobs": 2})) as served:
        answer = served.http.post("/v1/batches", files=files(PNG, PNG, PNG))
    assert (answer.json()["accepted"], answer.json()["refused"]) == (2, 1)
    assert answer.json()["documents"][2]["problem"]["code"] == "queue_full"
    assert answer.headers["retry-after"]
    assert stored(ledger) == 2


def test_a_batch_that_is_sent_again_under_its_key_is_the_same(settings: Settings, ledger: Ledger) -> None:
    key = {"Idempotency-Key": "nightly-17"}
    with Served(settings.model_copy(update={"max_queued_jobs": 2})) as served:
        http = served.http
        # Given a batch of which a full pool has refused the last document
        first = http.post("/v1/batches", files=files(PNG, PDF, PDF), headers=key)
        assert "idempotent-replayed" not in first.headers
        before = first.json()["documents"]
        assert before[2]["problem"]["code"] == "queue_full"
        # When it comes again once there is room
        ledger.cancel(before[0]["job"]["id"])
        again = http.post("/v1/batches", files=files(PNG, PDF, PDF), headers=key)
        # Then what was accepted is the job that it was, and what was refused is looked at anew
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["id"] == first.json()["id"]
        now = again.json()["documents"]
        assert [one["job"]["id"] for one in now[:2]] == [one["job"]["id"] for one in before[:2]]
        assert now[2]["job"] is not None
        assert stored(ledger) == ledger.totals()["jobs_accepted"] == 3
        # And anything else under its key is refused whole
        for other in (files(PNG), files(PNG, PDF, PDF, PNG), files(PNG, PDF, PDF + b" ")):
            assert_problem(http.post("/v1/batches", files=other, headers=key), 422, "idempotency_mismatch")
        changed = http.post("/v1/batches", files=files(PNG, PDF, PDF), data={"lane": "bulk"}, headers=key)
        assert_problem(changed, 422, "idempotency_mismatch")
        assert ledger.totals()["jobs_accepted"] == 3


def test_two_batches_under_one_key_at_once_are_one_too_many(http: httpx.Client, ledger: Ledger) -> None:
    key = {"Idempotency-Key": "nightly-17"}
    with ledger.sole_use(named("nightly-17")):
        assert_problem(http.post("/v1/batches", files=files(PNG), headers=key), 409, "request_in_progress")


@pytest.mark.parametrize(
    ("headers", "data", "cache"),
    [
        ({}, {}, True),
        ({"Cache-Control": "max-age=0, no-cache"}, {}, False),
        ({"Cache-Control": "no-store"}, {"cache": "true"}, False),
        ({}, {"cache": "false"}, False),
    ],
)
def test_a_batch_is_read_anew_if_that_is_asked_for(
    http: httpx.Client, ledger: Ledger, headers: dict[str, str], data: dict[str, str], cache: bool
) -> None:
    batch = http.post("/v1/batches", files=files(PNG, PDF), headers=headers, data=data).json()
    jobs = [ledger.job(document["job"]["id"]) for document in batch["documents"]]
    assert [job.options.cache for job in jobs] == [cache, cache]


def test_a_batch_that_nobody_knows(http: httpx.Client) -> None:
    for name in ("batch_17", "no%20name", "a" * 65):
        assert_problem(http.get(f"/v1/batches/{name}"), 404, "not_found")


def test_the_library_hands_in_many_at_once(settings: Settings, ledger: Ledger) -> None:
    with Producer(settings.model_copy(update={"max_document_bytes": 100_000})) as producer:
        pictures = sorted((ROOT / "tests" / "samples").glob("*.png"))[:1]
        found = producer.submit_all([PNG, *pictures, PDF.ljust(100_001), "/no/such/file"], batch="nightly-17")
        assert [type(one) for one in found] == [JobHandle, JobHandle, TooLarge, InvalidRequest]
        handles = [one for one in found if isinstance(one, JobHandle)]
        assert [status.id for status in producer.batch("nightly-17")] == [handle.id for handle in handles]
        assert handles[1].status().name == pictures[0].name
        with pytest.raises(InvalidRequest, match="batch: "):
            producer.submit_all([PNG], batch="two words")


def test_a_job_that_is_there_already_is_told_as_it_is(idle_pool: Producer, ledger: Ledger) -> None:
    # Given a job whose acceptance was written, and whose answer was lost
    job = make_job()
    ledger.accept(job, document_pages=1)
    # When it is asked for again, with another
    storing = Storing(ledger, idle_pool.blobs, Publisher(ledger.settings))
    other = make_job()
    for one in (job, other):
        storing.add(Asked(one, PDF))
    # Then both have been accepted
    assert [one.id for one in storing.accept() if isinstance(one, JobStatus)] == [job.id, other.id]
    assert stored(ledger) == 2


def test_what_a_full_pool_refuses_leaves_nothing(settings: Settings, ledger: Ledger) -> None:
    with Producer(settings.model_copy(update={"max_queued_jobs": 150})) as producer:
        found = producer.submit_all([PNG] * 250)
    refused = [one for one in found if isinstance(one, OcrpoolError)]
    assert {type(one) for one in refused} == {QueueFull}
    assert (len(refused), stored(ledger)) == (100, 150)
    assert ledger.redis.zcard(f"{ledger.namespace}:garbage") == 150


def listed(http: httpx.Client, **params: str | int) -> list[str]:
    """The ids of all parts of a list."""
    found: list[str] = []
    while True:
        answer = http.get("/v1/jobs", params=params).json()
        found += [job["id"] for job in answer["jobs"]]
        if answer["cursor"] is None:
            return found
        params["cursor"] = answer["cursor"]


def test_jobs_are_listed_from_the_last_by_their_state(http: httpx.Client, ledger: Ledger) -> None:
    jobs = [submit(http) for _ in range(5)]
    read_pages(ledger, jobs[1])
    read_pages(ledger, jobs[3], failing={1})
    ledger.claim(jobs[4], "1+1", "gpu0")
    assert listed(http) == jobs[::-1]
    assert listed(http, limit=2) == jobs[::-1]
    by_state = {state: listed(http, state=state, limit=1) for state in JobState}
    assert {state: found for state, found in by_state.items() if found} == {
        "queued": [jobs[2], jobs[0]],
        "running": [jobs[4]],
        "succeeded": [jobs[1]],
        "failed": [jobs[3]],
    }


def test_a_cursor_tells_no_job_twice_whatever_happens_meanwhile(http: httpx.Client, ledger: Ledger) -> None:
    jobs = [submit(http) for _ in range(4)]
    first = http.get("/v1/jobs", params={"limit": 2}).json()
    submit(http)
    read_pages(ledger, jobs[1])
    second = http.get("/v1/jobs", params={"limit": 2, "cursor": first["cursor"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == jobs[::-1]


def test_a_job_that_is_gone_leaves_the_list(http: httpx.Client, ledger: Ledger) -> None:
    gone, kept = submit(http), submit(http)
    read_pages(ledger, gone)
    ledger.redis.delete(f"{ledger.namespace}:job:{gone}")
    assert listed(http) == [kept]
    assert (ledger.forget_jobs(), ledger.forget_jobs()) == (1, 0)
    assert ledger.redis.zcard(f"{ledger.namespace}:index:succeeded") == 0
    assert listed(http) == [kept]


@pytest.mark.parametrize(
    ("asked", "says"),
    [("state=done", "state: "), ("limit=0", "limit: "), ("limit=101", "limit: "), ("cursor=x", "cursor: ")],
)
def test_a_list_that_cannot_be_told(http: httpx.Client, asked: str, says: str) -> None:
    assert assert_problem(http.get(f"/v1/jobs?{asked}"), 422, "invalid_request")["detail"].startswith(says)
