"""HTTP requests from one process at some thousand a second: an event loop on uvloop, answers parsed by httptools.

Locust's and httpx's own work for a request is more than the gateway's, which has to share two cores with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlparse

import httptools


@dataclass
class Answer:
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection that is kept, with one request under way at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._begun: asyncio.Future[int] | None = None
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), bytes(self._body))
        self._body.clear()
        # A parser is good for one answer; a new one costs less than it takes to ask whether it may go on.
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        for waiting in (self._answer, self._begun):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError(f"the gateway hung up: {error}"))

    async def ask(self, *parts: bytes) -> Answer:
        """Send a request and return its answer."""
        return await self.begin(*parts)

    def begin(self, *parts: bytes) -> asyncio.Future[Answer]:
        """Send a request; its answer comes later."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.writelines(parts)
        return self._answer

    async def stream(self, *parts: bytes) -> int:
        """Send a request whose answer does not end, and return its status once it has begun."""
        self._begun = asyncio.get_running_loop().create_future()
        self.transport.writelines(parts)
        return await self._begun


class Gateway:
    """Where the requests go."""

    def __init__(self, url: str) -> None:
        address = urlparse(url)
        assert address.hostname
        assert address.port
        self.host, self.port = address.hostname, address.port

    async def connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return connection

    @asynccontextmanager
    async def connections(self, many: int) -> AsyncIterator[list[Connection]]:
        opened = [await self.connect() for _ in range(many)]
        try:
            yield opened
        finally:
            for connection in opened:
                connection.transport.close()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()


def post(path: str, documents: list[bytes], *lines: str) -> list[bytes]:
    """A form with the documents, all in the field `file`."""
    end = b"--outside-of-any-document--\r\n"
    pieces: list[bytes] = []
    for document in documents:
        head = b'--outside-of-any-document\r\nContent-Disposition: form-data; name="file"; filename="page.png"\r\n\r\n'
        pieces += [head, document, b"\r\n"]
    pieces.append(end)
    headers = [
        f"POST {path} HTTP/1.1",
        "Host: gateway",
        "Content-Type: multipart/form-data; boundary=outside-of-any-document",
        f"Content-Length: {sum(map(len, pieces))}",
        *lines,
    ]
    return [("\r\n".join(headers) + "\r\n\r\n").encode(), *pieces]


Trip = Callable[[Connection], Awaitable[None]]


async def as_fast_as_possible(connections: list[Connection], trip: Trip, seconds: float) -> float:
    """Trips a second, one after the other on each connection."""
    began, made = time.perf_counter(), 0

    async def go(connection: Connection) -> None:
        nonlocal made
        while time.perf_counter() - began < seconds:
            await trip(connection)
            made += 1

    await asyncio.gather(*map(go, connections))
    return made / (time.perf_counter() - began)


async def at_rate(connections: list[Connection], trip: Trip, seconds: float, per_s: float) -> list[float]:
    """The seconds that each trip took from when it was due, however late it began."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    took: list[float] = []

    async def go(due: float) -> None:
        connection = await free.get()
        await trip(connection)
        took.append(time.perf_counter() - due)
        free.put_nowait(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as trips:
        for number in range(int(seconds * per_s)):
            due = began + number / per_s
            if (left_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(left_s)
            trips.create_task(go(due))
    return took
