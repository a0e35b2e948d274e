"""How much memory the pool's Redis has left for new jobs."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

from producer.errors import Unavailable

#: The server is asked at most this often.
_FRESH_S = 1.0


class Room:
    """Keeps a part of Redis' `maxmemory` free for the jobs that were accepted: their leases, their pages' results."""

    def __init__(self, client: redis.Redis, reserve_percent: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client
        self._reserve_percent = reserve_percent
        self._clock = clock
        self._asked_at = -_FRESH_S
        self._left = True

    def check(self) -> None:
        """Raises `Unavailable` once only the reserve is left. Without `maxmemory`, the server is never full."""
        now = self._clock()
        if now - self._asked_at >= _FRESH_S:
            self._left = self._look()
            self._asked_at = now
        if not self._left:
            raise Unavailable("The pool's Redis is nearly full.")

    def _look(self) -> bool:
        try:
            memory = self._redis.info("memory")
        except redis.exceptions.NoPermissionError:
            return True  # The server's own limit holds.
        most = memory.get("maxmemory", 0)
        return not most or 100 * memory["used_memory"] < (100 - self._reserve_percent) * most
