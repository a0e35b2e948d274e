"""An S3 store that is down, slow, throttles, loses answers, breaks off and has others answer, while documents come in.

Every outcome is too large for Redis here, so that both ends of a page go through the store.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool
from tests.chaos.proxy import Proxy
from tests.s3_server import Foreign, S3Server

Fault = Callable[[Proxy, S3Server, Pool], None]


def down(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    way.most_bytes = 1


def slow(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    way.latency_s = 0.2


def half_bodies(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    way.most_bytes = 1500


def throttling(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    s3.fault = lambda method, path: "SlowDown" if chaos.random.random() < 0.7 else ""


def lost_answers(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    s3.fault = lambda method, path: "lost" if chaos.random.random() < 0.5 else ""


def strangers(way: Proxy, s3: S3Server, chaos: Pool) -> None:
    answers = [Foreign(404, b"no backend"), Foreign(301), Foreign(200, b"<p>Welcome</p>"), Foreign(400, b"<x><Error>")]
    s3.fault = lambda method, path: chaos.random.choice(answers)


@pytest.fixture
def way(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """To the server, for all that boto3 asks."""
    proxy = Proxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


@contextmanager
def in_order_again(way: Proxy, s3: S3Server) -> Iterator[None]:
    yield
    way.most_bytes, way.latency_s, s3.fault = 0, 0.0, lambda method, path: ""
    way.reset()


def in_a_bucket(pool: MakePool) -> Pool:
    return pool(blob_url=f"s3://scans/{uuid.uuid4().hex}", result_inline_bytes=1)


def assert_every_object_is_owned(chaos: Pool, s3: S3Server) -> None:
    names = {key.rpartition("/")[2] for key in s3.below(chaos.settings.blob_url)}
    assert names <= set(chaos.members("garbage"))
    assert not s3.client.list_multipart_uploads(Bucket="scans").get("Uploads")


def test_s3_out_of_order(pool: MakePool, s3: S3Server, way: Proxy, seed: int, full: bool) -> None:
    chaos, report = in_a_bucket(pool), Report("S3 down, slow, throttling, half bodies, lost and foreign answers", seed)
    chaos.start_workers(2)
    faults: list[Fault] = [down, slow, throttling, half_bodies, lost_answers, strangers]
    with chaos.load(pause_s=0.3):
        for fault in faults * (4 if full else 1):
            chaos.goes_on()
            with in_order_again(way, s3):
                fault(way, s3, chaos)
                time.sleep(chaos.random.uniform(0.5, 10 if full else 2))
            started = time.monotonic()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
    chaos.finish(120)
    judge(chaos, report)
    assert_every_object_is_owned(chaos, s3)


@pytest.mark.chaos
def test_two_writers_of_one_result(pool: MakePool, s3: S3Server, way: Proxy, seed: int, full: bool) -> None:
    # A worker that stands still while its outcome is on its way to the store, until another has written its own
    chaos, report = in_a_bucket(pool), Report("SIGSTOP past the lease, outcomes in S3", seed)
    chaos.start_workers(2)
    way.latency_s = 0.02
    for _ in range(5 if full else 1):
        report.recovered(chaos.freeze_a_worker(pause_s=0.05))
    chaos.finish(60)
    judge(chaos, report)
    assert_every_object_is_owned(chaos, s3)
