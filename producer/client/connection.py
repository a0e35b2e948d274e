"""What the clients' connections have in common."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any
from weakref import WeakSet

import httpx

from producer.errors import InvalidRequest, Unavailable

#: How long a call is tried while the gateway is away or takes nothing.
PATIENCE_S = 60.0
#: Connections that are kept for the next call; there may be more.
KEPT = 32

_KEY = re.compile(r"[\x21-\x7e]+")
_MOST_PORT = 65_535


class Connections:
    """The sockets of a client, so that whoever closes it wakes the threads that wait for an answer on them: a thread
    that reads is not woken by its socket being closed."""

    def __init__(self) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def traced(self, event: str, info: Mapping[str, Any]) -> None:
        """Takes notice of a new connection, as the `trace` of a request to httpx."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            connection = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(connection)
                if self._closed:
                    _hang_up(connection)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in self._sockets:
                _hang_up(connection)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is down already
        # Beneath TLS, whose goodbye is not for a thread that does not read.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


@contextmanager
def open_until(closed: threading.Event | asyncio.Event) -> Iterator[None]:
    """What fails because the client has been closed meanwhile is `Unavailable`."""
    try:
        yield
    except Exception as error:
        if not closed.is_set():
            raise
        raise closed_client() from error


def closed_client() -> Unavailable:
    return Unavailable("The client is closed.")


def settings_of(base_url: str, api_key: str | None) -> dict[str, Any]:
    """How httpx is to connect. Redirects are errors: they would take documents and the key elsewhere.

    Raises:
        InvalidRequest: the address or the key has not the form of one.
    """
    headers = {"User-Agent": f"ocrpool/{version('ocrpool')}"}
    if api_key:
        headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
    return {
        "base_url": _checked_url(base_url),
        "headers": headers,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=KEPT),
        "follow_redirects": False,
    }


def _checked_key(api_key: str) -> str:
    """The key, less what stands around it in a file. What is told of it must not have it."""
    if not _KEY.fullmatch(key := api_key.strip()):
        raise InvalidRequest("api_key: printable ASCII characters without blanks.")
    return key


def _checked_url(base_url: str) -> httpx.URL:
    # It may carry a password, so it is not told either.
    try:
        url = httpx.URL(base_url)
        url.raw_host.decode("ascii").encode("idna")  # as it is looked up
    except (httpx.InvalidURL, UnicodeError):
        raise InvalidRequest("base_url: it is no address.") from None
    # A name has a % where it had a blank or the like, an address where it names an interface.
    if url.scheme not in ("http", "https") or not url.host or ("%" in url.host and ":" not in url.host):
        raise InvalidRequest("base_url: an address with its scheme, such as https://ocr.example.com.")
    if url.port is not None and not 0 < url.port <= _MOST_PORT:
        raise InvalidRequest(f"base_url: a port is a number up to {_MOST_PORT}.")
    return url
