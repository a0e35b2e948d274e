"""A TCP proxy that fails on demand: late, cut off, or silent without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.latency_s = 0.0
        #: A connection is cut off once it has brought so many bytes of answers.
        self.most_bytes = 0
        self._connections: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._all_silent = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def reset(self) -> None:
        """Cut every connection off."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Nothing passes, and nobody is told. New connections work afterwards; those open at the end stay silent."""
        self._all_silent = True
        try:
            yield
        finally:
            with self._lock:
                self._silent |= self._connections
                self._all_silent = False

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                try:
                    outside = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    inside.close()
                    continue
                with self._lock:
                    self._connections |= {inside, outside}
                for source, sink, most_bytes in ((inside, outside, 0), (outside, inside, self.most_bytes)):
                    threading.Thread(target=self._pump, args=(source, sink, most_bytes), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, most_bytes: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.latency_s:
                    time.sleep(self.latency_s)
                if most_bytes:
                    data = data[: most_bytes - passed]
                if not (self._all_silent or source in self._silent):
                    sink.sendall(data)
                passed += len(data)
                if passed == most_bytes:
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connections -= {source, sink}
            self._silent -= {source, sink}
        source.close()
