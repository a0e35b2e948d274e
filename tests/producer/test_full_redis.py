"""A Redis that fills up: intake stops before that, and what was accepted is finished, cancelled and given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.blobs import MemoryStore
from producer.errors import Unavailable
from producer.job import JobState
from producer.ledger import Ledger
from producer.queue import Publisher
from producer.room import Room
from producer.settings import Settings
from tests.conftest import assert_every_key_is_owned
from tests.producer.test_ledger import claimed, lapse, make_job, page_read
from tests.redis_server import Server
from worker.sweeper import Sweeper


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that no other test uses, because it is going to be full."""
    server = Server(tmp_path_factory.mktemp("full"))
    yield server.url
    server.close()


@pytest.fixture
def roomy(own_url: str, tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(Settings(redis_url=own_url, data_dir=tmp_path))
    yield ledger
    ledger.redis.config_set("maxmemory", 0)
    assert_every_key_is_owned(ledger.redis, ledger.namespace)
    ledger.redis.flushall()
    ledger.close()


def fill(ledger: Ledger) -> None:
    ledger.redis.config_set("maxmemory", 1000)


def test_a_full_redis_still_lets_accepted_work_end(roomy: Ledger) -> None:
    # Given a page that is read, a job that is not wanted, a unit that is given back, and a worker that died
    jobs = [make_job() for _ in range(4)]
    for job in jobs:
        roomy.accept(job, document_pages=1)
    read, unwanted, back, dead = jobs
    reading, returned = claimed(roomy, read, "1+1"), claimed(roomy, back, "1+1")
    fill(roomy)

    # Then all of that goes on, while nothing new begins
    assert roomy.renew([reading, returned]) == [True, True]
    assert roomy.finish_page(reading, page_read(1)) is JobState.SUCCEEDED
    roomy.cancel(unwanted.id)
    assert roomy.status(unwanted.id).state is JobState.CANCELLED
    assert roomy.release(returned, again=True) == [(back.id, "1+1", "interactive")]
    with pytest.raises(Unavailable):
        roomy.claim(dead.id, "1+1", "gpu0")
    with pytest.raises(Unavailable):
        Ledger(roomy.settings, roomy.redis).accept(make_job(), document_pages=1)


def test_a_full_redis_still_takes_what_lies_in_the_blob_store(roomy: Ledger) -> None:
    outside = Ledger(roomy.settings.model_copy(update={"result_inline_bytes": 1}), roomy.redis)
    job = make_job()
    outside.accept(job, document_pages=1)
    reading = claimed(outside, job, "1+1")
    fill(outside)
    assert outside.finish_page(reading, page_read(1)) is JobState.SUCCEEDED
    assert outside.result(job.id).pages == (page_read(1),)


def test_a_full_redis_is_swept(roomy: Ledger) -> None:
    job = make_job()
    roomy.accept(job, document_pages=1)
    claimed(roomy, job, "1+1")
    lapse(roomy)
    fill(roomy)
    publisher = Publisher(roomy.settings)
    swept = Sweeper(roomy, publisher, MemoryStore(), interval_s=3600).sweep()
    assert swept is not None
    assert swept.deaths == 1
    publisher.close()


def test_a_full_redis_still_knows_its_workers(roomy: Ledger) -> None:
    fill(roomy)
    roomy.announce("gpu0", {})
    assert roomy.is_ready("gpu0")


def test_what_a_full_redis_cannot_queue_is_left_to_the_sweeper(roomy: Ledger) -> None:
    publisher = Publisher(roomy.settings)
    fill(roomy)
    publisher.publish([(make_job().id, "1+1", "interactive")])
    publisher.close()


def test_intake_stops_at_the_reserve(roomy: Ledger) -> None:
    used = roomy.redis.info("memory")["used_memory"]
    roomy.redis.config_set("maxmemory", round(used / 0.9))
    with pytest.raises(Unavailable, match="nearly full"):
        roomy.accept(make_job(), document_pages=1)
    roomy.redis.config_set("maxmemory", 2 * used)
    Ledger(roomy.settings, roomy.redis).accept(make_job(), document_pages=1)


def test_the_memory_is_looked_at_once_a_second() -> None:
    class Server:
        asked = 0

        def info(self, section: str) -> dict[str, Any]:
            self.asked += 1
            return {"maxmemory": 100, "used_memory": 85 if self.asked == 1 else 84}

    now = [100.0]
    room = Room(server := Server(), 15, clock=lambda: now[0])  # type: ignore[arg-type]  # all that it is asked for
    for _ in range(3):
        with pytest.raises(Unavailable):
            room.check()
    now[0] += 1
    room.check()
    assert server.asked == 2


def test_an_account_that_may_not_look_is_no_obstacle() -> None:
    class Server:
        def info(self, section: str) -> dict[str, Any]:
            raise redis.exceptions.NoPermissionError("NOPERM")

    Room(Server(), 15).check()  # type: ignore[arg-type]  # all that it is asked for
