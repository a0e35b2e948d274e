"""Serving the gateway: one uvicorn process that says where it listens and stops without cutting anybody off."""

from __future__ import annotations

import json
import signal
import socket
import sys
from typing import TextIO

import uvicorn
from fastapi import FastAPI

from producer.gateway.app import create_app
from producer.settings import Settings

KEEP_ALIVE_S = 65
#: Time that requests under way have when the server stops; long-polls answer at once.
DRAIN_S = 30
BACKLOG = 2048


class GatewayServer(uvicorn.Server):
    """A uvicorn server for one gateway on a socket that is already bound."""

    def __init__(self, app: FastAPI, settings: Settings, announce_to: TextIO | None = None) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
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


def run(settings: Settings) -> None:
    """Serve a gateway in this process and announce it on stdout as one JSON line once it listens.

    SIGTERM and SIGINT stop it; SIGTERM ends in `SystemExit(0)`, SIGINT in `KeyboardInterrupt`.

    Raises:
        OSError: the address cannot be listened on.
    """
    # Once it has stopped in order, uvicorn raises the signal again for the handler of before.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    GatewayServer(create_app(settings), settings, announce_to=sys.stdout).serve_until_stopped()
