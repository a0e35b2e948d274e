"""Messages to a broker that comes and goes."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from redis import Redis

from producer.job import new_job_id
from producer.queue import Publisher, queue_prefix
from producer.settings import Settings
from tests.chaos.proxy import Proxy


def test_connections_that_are_cut_off_again_and_again_raise_nothing(settings: Settings) -> None:
    proxy = Proxy(urlsplit(settings.redis_url).port or 0)
    publisher = Publisher(settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{proxy.port}/0"}))
    over = threading.Event()

    def cut_off() -> None:
        while not over.wait(0.01):
            proxy.reset()

    thread = threading.Thread(target=cut_off)
    thread.start()
    try:
        for _ in range(500):
            publisher.publish([(new_job_id(), "1+1", "interactive")])
    finally:
        over.set()
        thread.join()
        publisher.close()
        proxy.close()
        with Redis.from_url(settings.redis_url) as client:
            assert client.delete(f"{queue_prefix(settings)}interactive")
