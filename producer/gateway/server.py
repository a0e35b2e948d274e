"""Serving the gateway: one uvicorn process that says where it listens and stops without cutting anybody off."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
from typing import TextIO

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer.errors import InvalidRequest, Unavailable
from producer.gateway.app import create_app
from producer.gateway.problems import MEDIA_TYPE, problem_of, problem_response
from producer.settings import Settings

log = structlog.get_logger(__name__)

KEEP_ALIVE_S = 65
#: Time that requests under way have when the server stops; long-polls answer at once.
DRAIN_S = 30
BACKLOG = 2048
#: Time that a client has for the head of a request.
HEAD_S = 20
#: So much of a body is still taken once it has been answered, and for so long: a connection that is closed before it is
#: read is reset, and the client may never see the answer.
UNWANTED_BYTES, UNWANTED_S = 1 << 27, 10
#: For load balancers and monitoring, which have to see a crowd from outside.
ALWAYS_ANSWERED = frozenset({"/healthz", "/readyz", "/metrics"})
#: Open files that a gateway needs beside those of its clients.
SPARE_FILES = 512


class Door:
    """Answers 503 to more than `most` requests at a time; health and metrics are told all the same.

    The server's own limit would answer without a problem document and without `Retry-After`, and would refuse everybody
    where a burst of clients exceeds it.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
        elif self._inside >= self._most:
            crowded = Unavailable(f"The gateway answers {self._most} requests already.")
            await problem_response(crowded, scope)(scope, receive, send)
        else:
            self._inside += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._inside -= 1


class ImpatientProtocol(HttpToolsProtocol):
    """Hangs up on a client that takes too long for the head of a request, or goes on too long with a body that has been
    answered. What is no HTTP is answered as every other error."""

    _patience: asyncio.TimerHandle | None = None
    #: Whether the body of the last request is still coming, and how much of it came after its answer.
    _coming = False
    _unwanted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for(HEAD_S)

    def on_headers_complete(self) -> None:
        self._wait_no_longer()
        self._coming, self._unwanted = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._unwanted += len(body)
            if self._unwanted > UNWANTED_BYTES:
                self.transport.close()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._coming = False
        if self.cycle.response_complete:
            self._wait_for(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._coming:
            self._wait_for(UNWANTED_S)

    def send_400_response(self, msg: str) -> None:
        problem = problem_of(InvalidRequest("The request is not one of HTTP/1.1."), status=400)
        body = problem.model_dump_json(exclude_none=True).encode()
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _wait_for(self, seconds: float) -> None:
        self._wait_no_longer()
        self._patience = self.loop.call_later(seconds, self._lose_patience)

    def _wait_no_longer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _lose_patience(self) -> None:
        # Nobody hangs up on a request that is being answered, although the next one may have begun.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class GatewayServer(uvicorn.Server):
    """A uvicorn server for one gateway on a socket that is already bound."""

    def __init__(self, app: FastAPI, settings: Settings, announce_to: TextIO | None = None) -> None:
        config = uvicorn.Config(
            Door(app, settings.gateway_requests),
            loop="uvloop",
            http=ImpatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._app = app
        self._announce_to = announce_to
        # Bound here and not by uvicorn, so that port 0 is known before the first request.
        self._socket = listening_socket(settings.gateway_host, settings.gateway_port)
        self.url = _url(settings.gateway_host, self._socket.getsockname()[1])

    def serve_until_stopped(self) -> None:
        """Serve until SIGTERM, SIGINT or `should_exit`."""
        with self._socket:
            self.run(sockets=[self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._announce_to is not None:
            print(json.dumps({"event": "gateway.ready", "url": self.url}), file=self._announce_to, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn waits for requests under way: the long-polls among them shall not hold it up.
        self._app.state.gateway.watcher.release()
        await super().shutdown(sockets)


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises OSError when the address is taken or not this machine's."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_open_files(wanted: int) -> None:
    """Each request may have an upload open beside itself. As many as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, most) and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(settings: Settings) -> None:
    """Serve a gateway in this process and announce it on stdout as one JSON line once it listens.

    SIGTERM and SIGINT stop it; SIGTERM ends in `SystemExit(0)`, SIGINT in `KeyboardInterrupt`.

    Raises:
        OSError: the address cannot be listened on.
    """
    # Once it has stopped in order, uvicorn raises the signal again for the handler of before.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    _allow_open_files(2 * settings.gateway_requests + SPARE_FILES)
    server = GatewayServer(create_app(settings), settings, announce_to=sys.stdout)
    (log.info if settings.asks_for_keys or settings.on_loopback else log.warning)(
        "gateway.api_keys", needed=settings.asks_for_keys, why=who_may_ask(settings)
    )
    server.serve_until_stopped()


def who_may_ask(settings: Settings) -> str:
    """One sentence for whoever starts the gateway."""
    where = "on loopback alone" if settings.on_loopback else "beyond loopback"
    how = f"listens {where}, with OCRPOOL_API_KEYS={settings.api_keys}"
    if settings.asks_for_keys:
        return f"The gateway {how}: requests need an API key of `ocrpool keys create NAME`."
    return f"The gateway {how}: whoever reaches it hands in documents and reads those of all without a key."
