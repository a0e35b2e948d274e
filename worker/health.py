"""A worker's `/metrics`, `/healthz` and `/readyz`, on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from producer.errors import Unavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class HealthServer:
    """`/healthz` answers 200, or 503 with what `trouble()` says: a worker that a new one should replace. `/readyz` says
    in the same way what keeps it from its work and no restart cures, `hindrance()`. All else is `/metrics`."""

    def __init__(self, host: str, port: int, trouble: Callable[[], str], hindrance: Callable[[], str]) -> None:
        metrics = make_wsgi_app()

        def all_that_hinders() -> str:
            return trouble() or hindrance()

        questions = {"/healthz": trouble, "/readyz": all_that_hinders}

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            question = questions.get(environ["PATH_INFO"])
            if question is None:
                return cast("Iterable[bytes]", metrics(environ, start_response))
            found = question()
            status = "503 Service Unavailable" if found else "200 OK"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [(found or "ok").encode() + b"\n"]

        try:
            self._server = make_server(host, port, answer, _Server, handler_class=_Quiet)
        except OSError as error:
            raise Unavailable(f"The worker cannot listen on {host}:{port}: {error.strerror}.") from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
