"""What a Redis URL says, to redis-py and to Celery."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kombu.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import SentinelConnectionPool

from producer.redis_url import SentinelUrl, broker, check, open_client, without_passwords

URL = (
    "redis+sentinel://app:p%40ss%3Aword@h1,h2:26380,[::1]:26381/mymaster/2?sentinel_username=s&sentinel_password=x%2Fy"
)


def test_the_parts_of_an_address_of_sentinels() -> None:
    assert SentinelUrl.parse(URL) == SentinelUrl(
        sentinels=(("h1", 26379), ("h2", 26380), ("::1", 26381)),
        master="mymaster",
        db=2,
        username="app",
        password="p@ss:word",
        sentinel_username="s",
        sentinel_password="x/y",
    )


def test_an_address_without_what_may_be_left_out() -> None:
    short = SentinelUrl.parse("redis+sentinel://:secret@h1/pool")
    assert short == SentinelUrl((("h1", 26379),), "pool", db=0, username=None, password="secret")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "localhost",
            r"^the URL of a Redis server, such as redis://.*, or of its Sentinels, such as redis\+sentinel://",
        ),
        ("sentinel://h1:26379;sentinel://h2:26379", "such as redis.sentinel://"),
        ("redis+sentinel://h1:26379,h2:26379", "/mymaster/0$"),
        ("redis+sentinel://h1:26379,/mymaster", "/mymaster/0$"),
        ("redis+sentinel://h1:x/mymaster", "/mymaster/0$"),
        ("redis+sentinel://h1/mymaster/zero", "/mymaster/0$"),
        ("rediss+sentinel://h1/mymaster", "/mymaster/0$"),
        ("redis+sentinel://h1/mymaster?password=x", "^password is none of what may follow"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_in_a_sentence(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(url)


def test_a_client_asks_the_sentinels_and_logs_in_at_both() -> None:
    with open_client(URL, max_connections=7) as client:
        pool = client.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        assert pool.max_connections == 7
        server = pool.connection_kwargs
        assert (server["username"], server["password"], server["db"]) == ("app", "p@ss:word", 2)
        sentinel = pool.sentinel_manager.sentinels[1].connection_pool.connection_kwargs
        assert (sentinel["host"], sentinel["port"]) == ("h2", 26380)
        assert (sentinel["username"], sentinel["password"]) == ("s", "x/y")


def test_celery_logs_in_the_same_way_whichever_sentinel_it_has_come_to() -> None:
    url, options = broker(URL)
    connection = Connection(url, transport_options=options)
    hosts = []
    for _ in range(3):
        hosts.append((connection.hostname, connection.port))
        assert (connection.userid, connection.password, connection.virtual_host) == ("app", "p@ss:word", "2")
        connection.maybe_switch_next()
    assert hosts == [("h1", 26379), ("h2", 26380), ("::1", 26381)]
    assert options["master_name"] == "mymaster"
    assert options["sentinel_kwargs"]["password"] == "x/y"


def test_threads_that_look_for_the_master_at_once_lose_no_sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a first Sentinel that is gone, and a second one that two threads ask at the same time
    both = threading.Barrier(2, timeout=10)
    with open_client("redis+sentinel://h1,h2,h3/mymaster") as client:
        manager = client.connection_pool.sentinel_manager
        before = list(manager.sentinels)

        def gone() -> Any:
            raise RedisConnectionError

        def answers() -> Any:
            both.wait()
            state = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2}
            return {"mymaster": {**state, "ip": "m", "port": 1}}

        monkeypatch.setattr(before[0], "sentinel_masters", gone)
        monkeypatch.setattr(before[1], "sentinel_masters", answers)
        # When both have found the master
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(manager.discover_master("mymaster"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Then the second Sentinel is asked first from now on, and the others are still there
        assert found == [("m", 1)] * 2
        assert manager.sentinels[0] is before[1]
        assert set(map(id, manager.sentinels)) == set(map(id, before))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6390/0", "redis://127.0.0.1:6390/0"),
        ("redis://[::1]:6390/0", "redis://[::1]:6390/0"),
        ("rediss://:hidden@redis.internal/0", "rediss://:***@redis.internal/0"),
        ("redis://user:hid@den:@redis.internal:6379/0", "redis://user:***@redis.internal:6379/0"),
        ("redis://redis.internal/0?password=hidden&db=1", "redis://redis.internal/0?password=***&db=1"),
        (
            "redis+sentinel://user:hidden@a,b:26379/main/0?sentinel_username=s&sentinel_password=hid@den",
            "redis+sentinel://user:***@a,b:26379/main/0?sentinel_username=s&sentinel_password=***",
        ),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert without_passwords(url) == shown
