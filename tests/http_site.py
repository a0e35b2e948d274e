"""A web site of the tests' own: answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Asked:
    """A request as it came. Names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


#: What is sent back, byte for byte and piece by piece.
Reply = Callable[[Asked], Iterable[bytes]]


def reply(status: int = 200, body: bytes = b"", *lines: str) -> Reply:
    """Always the same answer; `lines` are further headers."""
    head = "\r\n".join([f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", *lines])
    return lambda _: [head.encode() + b"\r\n\r\n" + body]


class Site:
    """Listens as a context; with `tls`, by TLS alone. `answer` may be exchanged at any time. Port 0 is a free one."""

    def __init__(
        self, answer: Reply, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        #: Each request as it comes, for who waits for it.
        self.came: SimpleQueue[Asked] = SimpleQueue()
        #: Connections, and bytes that came on them, whether they were requests or not.
        self.connections = 0
        self.received_bytes = 0
        self._tls = tls
        site = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    site._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 64

        self._server = Server((host, port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="site")

    def _serve(self, connection: socket.socket) -> None:
        self.connections += 1
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += self._receive(connection)
            head, _, body = head.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            while len(body) < int(headers.get("content-length", "0")):
                body += self._receive(connection)
            method, path, _ = first.split(" ")
            asked = Asked(method, path, headers, body)
            self.asked.append(asked)
            self.came.put(asked)
            for piece in self.answer(asked):
                connection.sendall(piece)

    def _receive(self, connection: socket.socket) -> bytes:
        data = connection.recv(1 << 16)
        self.received_bytes += len(data)
        if not data:
            raise ConnectionError("the client hung up")
        return data

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
