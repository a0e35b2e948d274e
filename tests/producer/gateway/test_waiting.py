"""Long-polls: they wake when the job ends, cost nothing meanwhile, and outlive a restart of Redis."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from producer.gateway import waiting
from producer.gateway.async_producer import CALL_THREADS
from producer.ledger import Ledger
from producer.producer import JobHandle
from producer.settings import Settings
from tests.producer.gateway.serving import (
    PDF,
    PNG,
    CountingProducer,
    Served,
    assert_problem,
    count_pages,
    read_pages,
    submit,
    wait_until,
)
from tests.redis_server import Server, Watched

#: Far longer than any test may take: a long-poll that answers was woken.
LONG_S = 600


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_wait_s": LONG_S})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_long_poll_sleeps_through_progress_and_wakes_at_the_end(
    settings: Settings, ledger: Ledger, pool: ThreadPoolExecutor
) -> None:
    with CountingProducer(settings) as producer, Served(settings, producer) as served:
        # Given a client that waits for a job of 20 pages
        job_id = submit(served.http, PDF)
        wait_until(served.gateway.watcher.connected.is_set)
        before = producer.reads
        answer = pool.submit(served.http.get, f"/v1/jobs/{job_id}", params={"wait": LONG_S}, timeout=LONG_S)
        wait_until(lambda: served.waiting == 1 and producer.reads == before + 1)
        # When its pages are read one span after the other
        count_pages(ledger, job_id, 20)
        for span in ("1+8", "9+8", "17+4"):
            assert not answer.done()
            read_pages(ledger, job_id, span)
        # Then the client is told at the last page, and Redis was asked at the start alone
        assert answer.result().json()["state"] == "succeeded"
        assert producer.reads == before + 1
        wait_until(lambda: served.waiting == 0)


def test_who_hands_in_and_waits_costs_redis_no_look(
    settings: Settings, ledger: Ledger, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "KNOWN_S", LONG_S)
    with CountingProducer(settings) as producer, Served(settings, producer) as served:
        wait_until(served.gateway.watcher.connected.is_set)
        asked: dict[str, Any] = {"files": {"file": PNG}, "headers": {"Prefer": f"wait={LONG_S}"}, "timeout": LONG_S}
        answer = pool.submit(served.http.post, "/v1/jobs", **asked)
        wait_until(lambda: served.waiting == 1)
        read_pages(ledger, served.http.get("/v1/jobs").json()["jobs"][0]["id"])
        assert answer.result().json()["state"] == "succeeded"
        assert producer.reads == 0


def end_partial(ledger: Ledger, job_id: str) -> None:
    count_pages(ledger, job_id, 4)
    read_pages(ledger, job_id, "1+4", failing=[2])


def end_failed(ledger: Ledger, job_id: str) -> None:
    count_pages(ledger, job_id, 1)
    read_pages(ledger, job_id, "1+1", failing=[1])


def end_unstarted(ledger: Ledger, job_id: str) -> None:
    ledger.cancel(job_id)


@pytest.mark.parametrize("end", [end_partial, end_failed, end_unstarted])
def test_whoever_waited_is_told_what_the_pool_knows(
    settings: Settings, ledger: Ledger, pool: ThreadPoolExecutor, end: Callable[[Ledger, str], None]
) -> None:
    with CountingProducer(settings) as producer, Served(settings, producer) as served:
        wait_until(served.gateway.watcher.connected.is_set)
        asked: dict[str, Any] = {
            "files": {"file": ("Ünïcode.pdf", PDF)},
            "headers": {"Prefer": f"wait={LONG_S}"},
            "timeout": LONG_S,
        }
        answer = pool.submit(served.http.post, "/v1/jobs", **asked)
        wait_until(lambda: served.waiting == 1)
        end(ledger, served.http.get("/v1/jobs").json()["jobs"][0]["id"])
        told = answer.result().json()
        assert producer.reads == 0
        assert told == served.http.get(told["links"]["self"]).json()
        assert told["finished_at"] is not None


def test_an_event_that_tells_less_is_looked_after(settings: Settings, ledger: Ledger, pool: ThreadPoolExecutor) -> None:
    with CountingProducer(settings) as producer, Served(settings, producer) as served:
        wait_until(served.gateway.watcher.connected.is_set)
        job_id = submit(served.http)
        answer = pool.submit(served.http.get, f"/v1/jobs/{job_id}?wait={LONG_S}", timeout=LONG_S)
        wait_until(lambda: served.waiting == 1 and producer.reads == 1)
        # As a version of before told an end, and before it has come
        ledger.redis.publish(f"{ledger.namespace}:events", json.dumps({"job_id": job_id, "state": "succeeded"}))
        wait_until(lambda: producer.reads == 2)
        assert not answer.done()
        read_pages(ledger, job_id)
        assert answer.result().json()["finished_at"] is not None


class ReadBeforeAnyoneWaits(CountingProducer):
    """Its jobs have ended before the gateway comes to wait for them, which has heard of it or not."""

    heard: Callable[[str], bool]

    def submit(self, *arguments: Any, **options: Any) -> JobHandle:
        job = super().submit(*arguments, **options)
        read_pages(self.ledger, job.id)
        wait_until(lambda: self.heard(job.id))
        return job


@pytest.mark.parametrize("heard", [True, False])
def test_a_job_that_ended_before_the_wait_began_is_waited_for_no_longer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    monkeypatch.setattr(waiting, "KNOWN_S", LONG_S if heard else 0.1)
    with ReadBeforeAnyoneWaits(settings) as producer, Served(settings, producer) as served:
        watcher = served.gateway.watcher
        wait_until(watcher.connected.is_set)
        producer.heard = lambda job_id: not heard or watcher.told_of_end(job_id) is not None
        if not heard:
            monkeypatch.setattr(watcher, "_dispatch", lambda _: None)
        asked = served.http.post("/v1/jobs", files={"file": PNG}, headers={"Prefer": f"wait={LONG_S}"})
        assert asked.json()["state"] == "succeeded"
        looks = 0 if heard else 1
        assert producer.reads == looks
        # And whoever wants the pages alone is given them without a look at the job before
        assert served.http.post("/ocr", files={"file": PNG}).json()["result"]["state"] == "succeeded"
        assert producer.reads == looks


def test_a_job_that_has_ended_and_a_wait_that_is_over_answer_at_once(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served:
        ended, unread = submit(served.http), submit(served.http)
        read_pages(ledger, ended)
        assert served.http.get(f"/v1/jobs/{ended}?wait={LONG_S}").json()["state"] == "succeeded"
        assert served.http.get(f"/v1/jobs/{unread}?wait=0.01").json()["state"] == "queued"


def test_200_clients_wait_at_once_without_a_thread_each(settings: Settings, ledger: Ledger) -> None:
    async def wait_for_all(served: Served, jobs: list[str]) -> list[httpx.Response]:
        async with httpx.AsyncClient(
            base_url=served.url, timeout=LONG_S, limits=httpx.Limits(max_connections=250)
        ) as http:
            waits = [asyncio.create_task(http.get(f"/v1/jobs/{job}?wait={LONG_S}")) for job in jobs * 10]
            while served.waiting < 200:
                await asyncio.sleep(0.005)
            # Others are served meanwhile, and the waiters hold no threads
            assert (await http.get("/healthz")).status_code == 200
            assert threading.active_count() <= threads + CALL_THREADS
            for job in jobs:
                await asyncio.to_thread(read_pages, ledger, job)
            return await asyncio.gather(*waits)

    with Served(settings) as served:
        # Given 20 jobs, each with ten clients that wait for it
        jobs = [submit(served.http) for _ in range(20)]
        threads = threading.active_count() + 1
        # When the jobs end, then every client learns it
        found = asyncio.run(wait_for_all(served, jobs))
    assert [answer.json()["state"] for answer in found] == ["succeeded"] * 200


def test_a_restart_of_redis_is_waited_out(settings: Settings, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    redis = Server(tmp_path)
    settings = settings.model_copy(update={"redis_url": redis.url})
    try:
        with Served(settings) as served:
            # Given two clients that wait for their jobs
            jobs = [submit(served.http), submit(served.http)]
            waits = [pool.submit(served.http.get, f"/v1/jobs/{job}?wait={LONG_S}", timeout=LONG_S) for job in jobs]
            wait_until(lambda: served.waiting == 2 and served.gateway.watcher.connected.is_set())
            # When Redis goes away, the pool is unavailable but the clients wait on
            redis.stop()
            wait_until(lambda: not served.gateway.watcher.connected.is_set())
            assert_problem(served.http.get(f"/v1/jobs/{jobs[0]}"), 503, "unavailable")
            assert served.waiting == 2
            # And when it is back, one job ends before the gateway listens again, or just after, and one later
            redis.start()
            ledger = Ledger(settings)
            read_pages(ledger, jobs[0])
            assert waits[0].result().json()["state"] == "succeeded"
            wait_until(served.gateway.watcher.connected.is_set)
            read_pages(ledger, jobs[1])
            assert waits[1].result().json()["state"] == "succeeded"
            ledger.close()
    finally:
        redis.close()


def test_a_failover_is_waited_out(settings: Settings, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    redis = Watched(tmp_path)
    settings = settings.model_copy(update={"redis_url": redis.url})
    try:
        with Served(settings) as served:
            # Given a client that waits for its job
            job = submit(served.http)
            answer = pool.submit(served.http.get, f"/v1/jobs/{job}?wait={LONG_S}", timeout=LONG_S)
            wait_until(lambda: served.waiting == 1 and served.gateway.watcher.connected.is_set())
            # When the master ends and its replica takes its place
            redis.stop()
            wait_until(served.gateway.watcher.connected.is_set)
            # Then the client learns of the job's end, which the new master told
            ledger = Ledger(settings)
            read_pages(ledger, job)
            ledger.close()
            assert answer.result().json()["state"] == "succeeded"
    finally:
        redis.close()


def test_a_stopping_server_answers_its_long_polls_at_once(settings: Settings, pool: ThreadPoolExecutor) -> None:
    with Served(settings) as served:
        job_id = submit(served.http)
        poll = pool.submit(served.http.get, f"/v1/jobs/{job_id}?wait={LONG_S}", timeout=LONG_S)
        read = pool.submit(served.http.post, "/ocr", files={"file": ("a.pdf", PDF)}, timeout=LONG_S)
        wait_until(lambda: served.waiting == 2)
        served.stop()
        assert poll.result().json()["state"] == "queued"
        assert "location" in read.result().headers
        assert_problem(read.result(), 503, "unavailable")
