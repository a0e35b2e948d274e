"""A Redis-protocol server of the tests' own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import redis

from producer.embedded import answers, redis_command
from producer.processes import Process, free_port


class Server:
    """One with AOF, which comes back with what it had written."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        #: Processes of it that there have been.
        self.lives = 0
        self._folder = folder
        self._environment = environment
        self.start()

    def start(self) -> None:
        self.lives += 1
        command = redis_command(self._folder, self.port)
        self.process = Process("redis", command, self._folder / "redis.log", self._environment)
        self.process.wait_until(lambda: answers(self.url), timeout_s=30)

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop(grace_s=10)

    def close(self) -> None:
        self.client.close()
        self.stop()
