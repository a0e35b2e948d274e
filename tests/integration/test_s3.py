"""A pool whose parts share no folder: Redis and an S3 bucket are all that is between them."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from producer import JobState, Producer
from producer.embedded import Embedded
from producer.queue import Publisher
from producer.settings import Settings, as_environment
from tests.documents import tiff
from tests.s3_server import AnyS3, Foreign, S3Server
from worker.sweeper import Sweeper

PAGES = 20


@pytest.fixture(params=["s3"])
def bucket(request: pytest.FixtureRequest) -> AnyS3:
    """That of one server or another."""
    server: AnyS3 = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def settings(settings: Settings, bucket: AnyS3, tmp_path: Path) -> Settings:
    """The producer's. Every outcome is too large for Redis."""
    url = f"s3://scans/{uuid.uuid4().hex}"
    return settings.model_copy(
        update={"data_dir": tmp_path / "producer", "blob_url": url, "result_inline_bytes": 1, "predictor": "fake"}
    )


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Iterator[Embedded]:
    """Where the workers run."""
    with Embedded(settings.model_copy(update={"data_dir": tmp_path / "worker"})) as parts:
        yield parts


@pytest.mark.parametrize("bucket", ["s3", "rclone"], indirect=True)
def test_a_producer_and_a_worker_need_redis_and_s3_alone(
    settings: Settings, elsewhere: Embedded, bucket: AnyS3, tmp_path: Path
) -> None:
    # Given a worker that has no folder in common with the producer
    elsewhere.start_workers(1)
    with Producer(settings) as producer:
        # When a document of more than one span is handed in
        job = producer.submit(tiff([f"page {page}" for page in range(1, PAGES + 1)]))
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
        # Then its pages come back, each from an object of its own, beside the document
        result = job.result()
        assert [page.page for page in result.pages] == list(range(1, PAGES + 1))
        assert len(bucket.below(settings.blob_url)) == PAGES + 1
        assert not (tmp_path / "producer").exists()
        assert not list((tmp_path / "worker").glob("blobs/*"))
        # And all of them go once the job's time is over
        ledger = producer.ledger
        names = [key.rpartition("/")[2] for key in bucket.below(settings.blob_url)]
        ledger.redis.zadd(f"{settings.namespace}:garbage", dict.fromkeys(names, 1), xx=True)
        sweeper = Sweeper(ledger, Publisher(settings), producer.blobs, interval_s=settings.sweep_interval_s)
        ledger.redis.delete(f"{settings.namespace}:sweeping")
        while sweeper.sweep() is None:
            ledger.redis.delete(f"{settings.namespace}:sweeping")
        assert bucket.below(settings.blob_url) == []


def test_a_worker_says_that_the_store_is_out_of_order_and_works_on_when_it_is_back(
    settings: Settings, elsewhere: Embedded, s3: S3Server
) -> None:
    (worker,) = elsewhere.start_workers(1)
    with Producer(settings) as producer:
        (description,) = producer.ledger.workers().values()
        url = f"http://{description['metrics']}"
        assert httpx.get(f"{url}/readyz").status_code == 200
        # Given a store that takes new documents, and gives none to the worker
        s3.fault = lambda method, path: "AccessDenied" if method == "GET" else ""
        job = producer.submit(tiff(["one", "two"]))
        worker.wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503, timeout_s=30)
        worker.wait_until(lambda: "document.not_fetched" in worker.log(), timeout_s=30)
        assert "denies access (AccessDenied)" in httpx.get(f"{url}/readyz").text
        assert httpx.get(f"{url}/healthz").status_code == 200
        # When it is back, then the document is read, and nobody was taken for dead
        s3.fault = lambda method, path: ""
        assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
        assert "deaths=1" not in worker.log()
        worker.wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, timeout_s=30)


def start(command: str, settings: Settings) -> subprocess.CompletedProcess[str]:
    """What comes of a command that does not start."""
    return subprocess.run(
        [sys.executable, "-m", "producer.cli", command],
        env={**os.environ, **as_environment(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_what_is_redirected_from_the_bucket_says_so_and_does_not_start(
    settings: Settings, s3: S3Server, command: str
) -> None:
    s3.fault = lambda method, path: Foreign(301, headers=(("Location", "https://127.0.0.1/"),))
    started = start(command, settings)
    assert started.returncode != 0
    sentence = f"The blob store {settings.blob_url} answers that it is at another address (HTTP 301)."
    assert sentence in " ".join((started.stdout + started.stderr).split())
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("command", ["gateway", "worker", "up"])
def test_what_cannot_use_the_bucket_says_so_and_does_not_start(settings: Settings, s3: S3Server, command: str) -> None:
    wrong = settings.model_copy(update={"blob_url": "s3://nowhere/pool", "gateway_port": 0})
    ran = start(command, wrong)
    assert ran.returncode != 0
    assert "The blob store s3://nowhere/pool has no such bucket." in " ".join((ran.stdout + ran.stderr).split())
    assert "Traceback" not in ran.stderr
