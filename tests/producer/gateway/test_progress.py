"""A job's pages, events and timeline while it runs, and what is tried again once it has ended."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from producer.gateway import events
from producer.gateway.async_producer import CALL_THREADS
from producer.job import PREPARE
from producer.ledger import Claim, Ledger
from producer.producer import Producer
from producer.settings import Settings
from producer.timeline import BatchShare, traced
from tests.producer.gateway.serving import (
    PDF,
    Served,
    assert_problem,
    count_pages,
    page_read,
    read_pages,
    submit,
    wait_until,
)
from tests.producer.test_ledger import lapse


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def job_id(http: httpx.Client, ledger: Ledger) -> str:
    """A job of twelve pages, none of them read."""
    job_id = submit(http, PDF)
    count_pages(ledger, job_id, 12)
    return job_id


def pages_after(http: httpx.Client, job_id: str, after: int, limit: int = 100) -> httpx.Response:
    return http.get(f"/v1/jobs/{job_id}/pages", params={"after": after, "limit": limit})


def test_pages_are_there_as_soon_as_they_are_done_in_the_order_in_which_they_were(
    http: httpx.Client, ledger: Ledger, job_id: str
) -> None:
    # Given a job whose last pages are read first
    nothing = pages_after(http, job_id, 0)
    assert (nothing.json()["pages"], nothing.json()["next"], nothing.json()["more"]) == ([], 0, True)
    assert nothing.headers["retry-after"]
    read_pages(ledger, job_id, "9+4", failing={10})
    # When a client takes them three at a time
    first = pages_after(http, job_id, 0, limit=3)
    assert [page["page"] for page in first.json()["pages"]] == [9, 10, 11]
    assert [page["kind"] for page in first.json()["pages"]] == ["page", "failure", "page"]
    assert "retry-after" not in first.headers
    read_pages(ledger, job_id, "1+8")
    # Then it gets each once, and learns that there are no more
    rest = pages_after(http, job_id, first.json()["next"])
    assert [page["page"] for page in rest.json()["pages"]] == [12, *range(1, 9)]
    assert (rest.json()["next"], rest.json()["more"], rest.json()["state"]) == (12, False, "partial")
    assert "retry-after" not in rest.headers
    assert pages_after(http, job_id, 12).json()["pages"] == []


class Stream:
    """Events of one stream as they come, with their ids."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, str, dict[str, object]]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and fields:
                return fields["event"], fields["id"], json.loads(fields["data"])
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        raise EOFError


def rest(stream: Stream) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while True:
        try:
            kind, event_id, _ = stream.next()
        except EOFError:
            return found
        found.append((kind, event_id))


def test_events_tell_a_jobs_way_and_go_on_where_they_were_cut_off(
    http: httpx.Client, ledger: Ledger, job_id: str
) -> None:
    url = f"/v1/jobs/{job_id}/events"
    # Given a client that follows a job from its beginning
    with http.stream("GET", url) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = Stream(response)
        kind, _, status = stream.next()
        assert (kind, status["state"], status["pages_total"]) == ("status", "running", 12)
        # When pages are read, then it is told of each
        read_pages(ledger, job_id, "9+4", failing={10})
        seen: list[tuple[object, ...]] = []
        while len(seen) < 4:
            kind, event_id, data = stream.next()
            if kind == "page":
                seen.append((event_id, data["page"], data["kind"]))
        assert seen == [("1", 9, "page"), ("2", 10, "failure"), ("3", 11, "page"), ("4", 12, "page")]
    # When it is cut off, pages are read meanwhile, and another gateway is asked for what came after the third
    read_pages(ledger, job_id, "1+8")
    with Served(ledger.settings) as other, other.http.stream("GET", url, headers={"Last-Event-ID": "3"}) as response:
        events_left = rest(Stream(response))
    # Then it misses nothing, and learns of the end
    assert [event_id for kind, event_id in events_left if kind == "page"] == [str(number) for number in range(4, 13)]
    assert events_left[0][0] == "status"
    assert events_left[-1] == ("end", "12-end")
    # And whoever knows of the end is told not to come back
    assert http.get(url, headers={"Last-Event-ID": "12-end"}).status_code == 204


def test_a_silent_stream_is_kept_open_and_ends_with_its_job(
    http: httpx.Client, served: Served, ledger: Ledger, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    wait_until(served.gateway.watcher.connected.is_set)
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        lines = response.iter_lines()
        while next(lines) != ": waiting":
            pass
        ledger.cancel(job_id)
        assert "event: end" in list(lines)
    wait_until(lambda: not served.gateway.watcher._progress_bells)


def test_a_stopping_server_lets_its_streams_go_without_an_end(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served:
        job_id = submit(served.http, PDF)
        with served.http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            stream = Stream(response)
            assert stream.next()[0] == "status"
            served.stop()
            assert "end" not in [kind for kind, _ in rest(stream)]


def test_100_streams_are_open_at_once_without_a_thread_each(settings: Settings, ledger: Ledger) -> None:
    async def follow(served: Served, jobs: list[str]) -> list[str]:
        limits = httpx.Limits(max_connections=110)
        async with httpx.AsyncClient(base_url=served.url, timeout=600, limits=limits) as http:
            streams = [asyncio.create_task(http.get(f"/v1/jobs/{job}/events")) for job in jobs * 10]
            while sum(map(len, served.gateway.watcher._progress_bells.values())) < 100:
                await asyncio.sleep(0.005)
            # They hold no threads
            assert threading.active_count() <= threads + CALL_THREADS
            for job in jobs:
                await asyncio.to_thread(read_pages, ledger, job)
            return [(await stream).text for stream in streams]

    with Served(settings) as served:
        threads = threading.active_count() + 1
        texts = asyncio.run(follow(served, [submit(served.http) for _ in range(10)]))
    assert len(texts) == 100
    assert all("event: page" in text and "event: end" in text for text in texts)


def test_a_timeline_tells_who_held_what_and_where_pages_waited(http: httpx.Client, ledger: Ledger) -> None:
    # Given a job whose first span a worker died with, and another's read, with what its batches were
    ledger.announce("gpu1", {"device": "card 0"})
    job_id = submit(http, PDF)
    count_pages(ledger, job_id, 9)
    assert isinstance(ledger.claim(job_id, "1+8", "gpu0"), Claim)
    lapse(ledger)
    ledger.sweep("q.")
    claim = ledger.claim(job_id, "1+8", "gpu1")
    assert isinstance(claim, Claim)
    share = BatchShare(batch=7, items=1, size=3, fill=0.75, wait_ms=4.5, compute_ms=20)
    ledger.finish_page(claim, page_read(3), traced(2.5, 6.5, {"detector": [share]}))
    ledger.release(claim, again=True)
    ledger.claim(job_id, "9+1", "gpu1")
    ledger.cancel(job_id)
    # Then its timeline has them all
    timeline = http.get(f"/v1/jobs/{job_id}/timeline").json()
    assert [(a["unit"], a["worker"], a["device"], a["ended"]) for a in timeline["attempts"]] == [
        (PREPARE, "test", None, "done"),
        ("1+8", "gpu0", None, "lapsed"),
        ("1+8", "gpu1", "card 0", "given_back"),
        ("9+1", "gpu1", "card 0", "job_ended"),
    ]
    assert all(a["claimed_at"] <= a["ended_at"] <= timeline["finished_at"] for a in timeline["attempts"])
    [page] = timeline["pages"]
    assert (page["page"], page["worker"], page["failed"]) == (3, "gpu1", False)
    assert (page["waited_ms"], page["rasterise_ms"]) == (2.5, 6.5)
    assert page["stages"] == {"detector": [share.model_dump()]}
    assert timeline["complete"]


def test_whoever_brings_the_last_page_has_done_its_unit(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http)
    read_pages(ledger, job_id)
    timeline = http.get(f"/v1/jobs/{job_id}/timeline").json()
    assert [(one["unit"], one["ended"], one["ended_at"]) for one in timeline["attempts"]] == [
        ("1+1", "done", timeline["pages"][0]["at"])
    ]


def test_failed_pages_are_tried_again_in_a_job_of_their_own(http: httpx.Client, ledger: Ledger, job_id: str) -> None:
    # Given a job with two pages that failed, and one that still runs
    assert_problem(http.post(f"/v1/jobs/{job_id}/retry"), 409, "not_finished")
    read_pages(ledger, job_id, "1+8", failing={3})
    read_pages(ledger, job_id, "9+4", failing={10})
    # When it is retried, and the answer gets lost
    answer, again = http.post(f"/v1/jobs/{job_id}/retry"), http.post(f"/v1/jobs/{job_id}/retry")
    # Then those two pages are one new job, which reads the same document
    assert (answer.status_code, again.status_code) == (202, 202)
    new = answer.json()
    assert again.json()["id"] == new["id"] != job_id
    assert (new["state"], new["pages_total"], new["retry_of"]) == ("queued", 2, job_id)
    assert again.headers["idempotent-replayed"] == "true"
    assert ledger.job(new["id"]).blob == ledger.job(job_id).blob
    read_pages(ledger, new["id"], "3+1")
    read_pages(ledger, new["id"], "10+1")
    result = http.get(new["links"]["result"]).json()
    assert (result["state"], [page["page"] for page in result["pages"]]) == ("succeeded", [3, 10])
    # And the old one is as it was
    old = http.get(f"/v1/jobs/{job_id}").json()
    assert (old["state"], old["pages_failed"], old["retried_by"]) == ("partial", 2, new["id"])
    # Nothing is left to be tried again
    problem = assert_problem(http.post(f"/v1/jobs/{new['id']}/retry"), 422, "invalid_request")
    assert "Every page" in problem["detail"]


def test_what_a_cancelled_job_did_not_come_to_is_read_by_its_retry(
    http: httpx.Client, ledger: Ledger, job_id: str
) -> None:
    read_pages(ledger, job_id, "1+8", failing={8})
    ledger.cancel(job_id)
    new = http.post(f"/v1/jobs/{job_id}/retry").json()
    assert new["pages_total"] == 5
    read_pages(ledger, new["id"], "8+5")
    assert http.get(new["links"]["self"]).json()["state"] == "succeeded"


def test_a_document_whose_pages_were_never_counted_is_counted_by_the_retry(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http, PDF, pages="2-3")
    ledger.cancel(job_id)
    new = http.post(f"/v1/jobs/{job_id}/retry").json()
    assert new["pages_total"] is None
    count_pages(ledger, new["id"], 12)
    assert http.get(new["links"]["self"]).json()["pages_total"] == 2


def test_a_document_stays_as_long_as_the_last_job_that_reads_it(
    http: httpx.Client, ledger: Ledger, job_id: str
) -> None:
    ledger.cancel(job_id)
    new = http.post(f"/v1/jobs/{job_id}/retry").json()["id"]
    goes_at = ledger.redis.zscore(f"{ledger.namespace}:garbage", job_id)
    assert isinstance(goes_at, float)
    left_s = goes_at / 1000 - http.get(f"/v1/jobs/{new}").json()["created_at"]
    assert left_s >= ledger.settings.deadline_s + ledger.settings.result_ttl_s - 1


def test_a_client_that_prefers_to_wait_gets_a_job_that_has_ended(
    served: Served, http: httpx.Client, ledger: Ledger, pool: ThreadPoolExecutor
) -> None:
    # Given a client that hands in, and would wait
    headers = {"Prefer": "respond-async, wait=600"}
    answer = pool.submit(http.post, "/v1/jobs", files={"file": ("a.pdf", PDF)}, headers=headers)
    wait_until(lambda: served.waiting == 1)
    job_id = http.get("/v1/jobs").json()["jobs"][0]["id"]
    # When the job is read, then that is its answer
    count_pages(ledger, job_id, 1)
    read_pages(ledger, job_id)
    assert (answer.result().status_code, answer.result().json()["state"]) == (200, "succeeded")
    assert answer.result().headers["preference-applied"] == "wait=60", "the longest wait of the settings"
    assert answer.result().headers["location"] == f"/v1/jobs/{job_id}"


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=1", "wait=1"), ('handling=lenient;x, Wait = "1"', "wait=1"), ("wait=soon", None), ("wait=0", None)],
)
def test_a_preference_is_applied_where_it_is_understood(http: httpx.Client, prefer: str, applied: str | None) -> None:
    job_id = submit(http)
    answer = http.get(f"/v1/jobs/{job_id}", headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert answer.headers.get("preference-applied") == applied


def test_a_queued_job_knows_its_place_and_how_long_it_takes(http: httpx.Client, ledger: Ledger) -> None:
    # Given four jobs that wait, in a pool that has not read anything yet
    jobs = [submit(http) for _ in range(4)]
    last = http.get(f"/v1/jobs/{jobs[-1]}").json()
    assert (last["queue_position"], last["estimated_wait_s"]) == (3, None)
    # When two are read, ten seconds apart
    read_pages(ledger, jobs[0])
    ledger.redis.hincrby(f"{ledger.namespace}:flow", "interactive:last", -10_000)
    read_pages(ledger, jobs[1])
    # Then the last one has one before it, and about twenty seconds to wait
    last = http.get(f"/v1/jobs/{jobs[-1]}").json()
    assert last["queue_position"] == 1
    assert 20 <= last["estimated_wait_s"] < 25
    # And one that is read has no place
    assert http.get(f"/v1/jobs/{jobs[0]}").json()["queue_position"] is None


def test_the_library_tells_the_same(settings: Settings, ledger: Ledger) -> None:
    with Producer(settings) as producer:
        job = producer.submit(PDF, name="a.pdf")
        count_pages(ledger, job.id, 3)
        read_pages(ledger, job.id, "1+3", failing={2})
        assert [page.page for page in job.pages().pages] == [1, 2, 3]
        assert [page.page for page in job.pages(after=2).pages] == [3]
        assert [attempt.unit for attempt in job.timeline().attempts] == [PREPARE, "1+3"]
        again = job.retry()
        assert again == job.retry()
        assert again.status().pages_total == 1
        assert [status.id for status in producer.jobs()] == [again.id, job.id]
