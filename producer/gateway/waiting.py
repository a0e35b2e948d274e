"""Waiting for jobs: one Redis subscription a process wakes each long-poll whose job is final, and each event stream."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, TypeVar

import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from producer.errors import Unavailable
from producer.job import JobState
from producer.redis_url import async_client

log = structlog.get_logger(__name__)

Found = TypeVar("Found")

#: The reader pings after this silence, and takes the connection for dead after another.
SILENCE_S = 10.0
#: The first and the longest pause before the reader connects again.
RECONNECT_S = (0.1, 2.0)
#: While the reader is not connected, waiters look for themselves this often.
REREAD_S = 5.0
#: Of so many jobs the end is remembered, for those who come to wait for it a moment later.
JUST_ENDED = 4096
#: Who knows where a job stood a moment ago looks again after this, if nothing was heard of it.
KNOWN_S = 1.0

Bells = dict[str, set[asyncio.Event]]


class Watcher:
    """Reads the ledger's events and wakes the waiters of each job that became final. Lives on one event loop."""

    def __init__(self, redis_url: str, channel: str) -> None:
        self._redis_url = redis_url
        self._channel = channel
        self._bells: Bells = defaultdict(set)
        #: Of those who want to hear of a job's progress, too.
        self._progress_bells: Bells = defaultdict(set)
        #: The events that told of an end, by job.
        self._just_ended: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._reader: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()
        self.released = False

    @property
    def waiting(self) -> int:
        """Long-polls that wait at this moment."""
        return sum(len(bells) for bells in self._bells.values())

    async def start(self) -> None:
        self._reader = asyncio.create_task(self._read_forever(), name="watcher")

    async def stop(self) -> None:
        self.release()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    def release(self) -> None:
        """Let every long-poll answer at once, those that come later too: the server is about to stop."""
        self.released = True
        self._ring_all()

    async def wait(
        self, job_id: str, read: Callable[[], Awaitable[Found | None]], timeout_s: float, *, is_known: bool = False
    ) -> Found | None:
        """What `read` gives once the job has ended; None if that is nothing until the time is up or the server stops.
        It is asked at once, but for a job of which it `is_known` that it had not ended a moment ago.

        Raises:
            what `read` raises, at the start or at the end; while waiting an unreachable pool is waited out.
        """
        with _hung(self._bells, job_id) as bell, suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                found = None
                if not is_known:
                    # The bell hangs before this reading: what happens after it rings.
                    found = await read()
                else:
                    if job_id not in self._just_ended:
                        await self.heard(bell, KNOWN_S)
                    bell.set()  # What happened before it hung may have been missed.
                while found is None and not self.released:
                    await self._rung(bell)
                    with suppress(Unavailable):
                        found = await read()
                if found is not None:
                    return found
        return await read()

    async def _rung(self, bell: asyncio.Event) -> None:
        while not bell.is_set() and not self.released:
            with suppress(TimeoutError):
                async with asyncio.timeout(REREAD_S):
                    await bell.wait()
            if not self.connected.is_set():
                break
        bell.clear()

    def told_of_end(self, job_id: str) -> dict[str, Any] | None:
        """The event of the job's end, if it came a moment ago; see `publish_event` of the scripts."""
        return self._just_ended.get(job_id)

    @contextmanager
    def following(self, job_id: str) -> Iterator[asyncio.Event]:
        """A bell that rings whenever something has happened to the job, or may have; for `heard`."""
        with _hung(self._progress_bells, job_id) as bell:
            yield bell

    async def heard(self, bell: asyncio.Event, timeout_s: float) -> bool:
        """Whether the bell rang within the time, so that the follower has to look; silences it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s if self.connected.is_set() else min(timeout_s, REREAD_S)):
                await bell.wait()
        rang = bell.is_set() or self.released or not self.connected.is_set()
        bell.clear()
        return rang

    def _ring_all(self) -> None:
        for bells in (*self._bells.values(), *self._progress_bells.values()):
            for bell in bells:
                bell.set()

    async def _read_forever(self) -> None:
        first, longest = RECONNECT_S
        pause = first
        while True:
            try:
                await self._read()
            except (RedisError, OSError) as error:
                if self.connected.is_set():
                    pause = first
                    log.warning("gateway.events_lost", error=str(error))
                self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _read(self) -> None:
        """Dispatch events until the connection fails."""
        async with AsyncExitStack() as stack:
            # Reconnecting is this class's work: after a gap every waiter has to look again.
            client = async_client(
                self._redis_url, retry=Retry(NoBackoff(), 0), socket_connect_timeout=5, socket_keepalive=True
            )
            redis = await stack.enter_async_context(client)
            pubsub = await stack.enter_async_context(redis.pubsub())
            await pubsub.subscribe(self._channel)
            pinged = False
            while True:
                message = await pubsub.get_message(timeout=SILENCE_S)
                if message is None:
                    if pinged:
                        raise ConnectionError("the subscription is silent")
                    await pubsub.ping()
                    pinged = True
                    continue
                pinged = False
                if message["type"] == "subscribe":
                    self.connected.set()
                    self._ring_all()
                elif message["type"] == "message":
                    self._dispatch(message["data"])

    def _dispatch(self, payload: bytes) -> None:
        try:
            event = json.loads(payload)
            job_id, ended = event["job_id"], JobState(event["state"]).final
        except (ValueError, KeyError, TypeError) as error:
            # Whatever else was published there must not end the reader.
            log.warning("gateway.event_not_understood", error=str(error))
            return
        for bell in (*self._progress_bells.get(job_id, ()), *(self._bells.get(job_id, ()) if ended else ())):
            bell.set()
        if ended:
            self._just_ended[job_id] = event
            if len(self._just_ended) > JUST_ENDED:
                self._just_ended.popitem(last=False)


@contextmanager
def _hung(bells: Bells, job_id: str) -> Iterator[asyncio.Event]:
    """A new bell among the others of the job."""
    bell = asyncio.Event()
    bells[job_id].add(bell)
    try:
        yield bell
    finally:
        bells[job_id].discard(bell)
        if not bells[job_id]:
            del bells[job_id]
