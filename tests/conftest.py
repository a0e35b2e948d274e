"""What many tests share: a real Redis-protocol server, and settings that point at it and a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from producer.embedded import Embedded
from producer.job import JobState, Lane
from producer.ledger import Ledger
from producer.outbox import Standing
from producer.producer import Producer
from producer.settings import Settings
from tests.redis_server import Server

if TYPE_CHECKING:
    from tests.s3_server import AnyS3, RcloneServer, S3Server

for name in [name for name in os.environ if name.startswith("OCRPOOL_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Redis-protocol server for the whole run. Tests share it, each in a namespace of its own."""
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Without the cache: tests hand in one document many times, to have it read as often."""
    return Settings(redis_url=redis_url, namespace=f"t{uuid.uuid4().hex[:12]}", data_dir=tmp_path, cache_ttl_s=0)


#: Keys that live without a TTL because something else removes their members: see `producer.ledger`.
OWNED = {
    "active",
    "running",
    "leases",
    "garbage",
    "load",
    "shares",
    "tenants",
    "apikeys",
    "apikeys_used",
    "pace",
    "sweeps",
    "outbox",
    "rows",
    "deliveries",
    "dead",
    "totals",
    "flow",
    "signing_key",
    *(f"waiting:{lane}" for lane in Lane),
    *(f"turns:{lane}" for lane in Lane),
    *(f"index:{state}" for state in JobState),
}
#: The same of one tenant each.
OWNED_BY_TENANT = (
    *(f"waiting:{lane}:" for lane in Lane),
    *(f"index:{state}:" for state in JobState),
    *(f"row:{standing}:" for standing in Standing),
)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    """A ledger; the test fails if it leaves a key with neither a TTL nor an owner."""
    ledger = Ledger(settings)
    yield ledger
    assert_every_key_is_owned(ledger.redis, settings.namespace)
    ledger.close()


def assert_every_key_is_owned(client: redis.Redis, namespace: str) -> None:
    found = (key.decode() for key in client.scan_iter(match=f"{namespace}:*", count=1000))
    named = ((key, key.removeprefix(f"{namespace}:")) for key in found)
    others = (key for key, name in named if name not in OWNED and not name.startswith(OWNED_BY_TENANT))
    while some := list(islice(others, 1000)):  # There may be hundreds of thousands.
        with client.pipeline(transaction=False) as pipe:
            for key in some:
                pipe.ttl(key)
            left = pipe.execute()
        lasting = [key for key, ttl_s in zip(some, left, strict=True) if ttl_s == -1]
        assert not lasting, f"{', '.join(lasting)}: neither a TTL nor an owner"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    (folder := tmp_path / "tiny").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone, where the machine allows it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the whole run. Tests share its bucket, each below a prefix of its own."""
    from tests.s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, which boto3 finds in this process and its children."""
    show(s3_server, monkeypatch)
    s3_server.seen.clear()
    yield s3_server
    s3_server.fault = lambda method, path: ""


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    from tests.s3_server import RcloneServer

    server = RcloneServer(tmp_path_factory.mktemp("rclone"))
    yield server
    server.close()


@pytest.fixture
def rclone(rclone_server: RcloneServer, monkeypatch: pytest.MonkeyPatch) -> RcloneServer:
    """Another S3 server in its place."""
    show(rclone_server, monkeypatch)
    return rclone_server


def show(server: AnyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def pool(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Producer]:
    """A producer in front of one real worker with the real models, for the whole run."""
    folder = tmp_path_factory.mktemp("pool")
    settings = Settings(redis_url=redis_url, namespace="pool", data_dir=folder, cache_ttl_s=0)
    with Embedded(settings) as parts, Producer(settings) as producer:
        parts.start_workers(1)
        yield producer


@pytest.fixture
def idle_pool(settings: Settings) -> Iterator[Producer]:
    """A producer in front of a queue that nobody reads."""
    with Producer(settings) as producer:
        yield producer
