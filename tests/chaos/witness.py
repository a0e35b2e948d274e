"""An account of every outcome that is none of the ledger's own: it reads along with the server's MONITOR."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter, defaultdict
from contextlib import suppress

from tests.redis_server import Server, Watched

Page = tuple[str, int]


class Witness:
    """Counts what is written for each page, server process by server process: one that is killed may forget.

    A page is recorded where `HSETNX` is followed by a step of its job's counters, as in `record_page` of the ledger's
    scripts; one that was refused leaves the counters alone.
    """

    def __init__(self, server: Server | Watched, namespace: str) -> None:
        self._server = server
        self._line = re.compile(
            rb'"EVALSHA" "\w+" "1" "%(ns)s" "(\w+)" "\d+\+\d+" "(\d+)" "(\d+)" "\{'
            rb'|\[0 lua\] "HSETNX" "%(ns)s:pages:(\w+)" "(\d+)"'
            rb'|\[0 lua\] "HINCRBY" "%(ns)s:job:(\w+)" "pages_(?:done|failed)"'
            rb'|"ECHO" "(witness-\d+)"' % {b"ns": namespace.encode()}
        )
        self._outcomes: Counter[tuple[int, Page]] = Counter()
        self._fences: defaultdict[Page, set[bytes]] = defaultdict(set)
        self._marks: set[bytes] = set()
        self._begun: Page | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._watching = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()
        assert self._watching.wait(10)

    @property
    def recorded(self) -> set[Page]:
        """Every page that was seen to be recorded."""
        return {page for _, page in self._outcomes}

    @property
    def duplicates(self) -> int:
        """Outcomes that one server process recorded beyond the first of a page."""
        return sum(times - 1 for times in self._outcomes.values())

    @property
    def read_again(self) -> int:
        """How often a page was read that a holder of another lease had read to its end."""
        return sum(len(fences) - 1 for fences in self._fences.values())

    def catch_up(self) -> None:
        """Return once everything is counted that the server has done until now."""
        mark = f"witness-{len(self._marks)}"
        self._server.client.execute_command("ECHO", mark)
        with self._changed:
            assert self._changed.wait_for(lambda: mark.encode() in self._marks, 30)

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._server.port), timeout=1) as connection:
                connection.sendall(b"MONITOR\r\n")
                self._watch(connection)
            self._closed.wait(0.02)

    def _watch(self, connection: socket.socket) -> None:
        life, rest = self._server.lives, b""
        while not self._closed.is_set():
            try:
                data = connection.recv(1 << 20)
            except TimeoutError:
                continue
            if not data:
                return
            self._watching.set()
            lines, _, rest = (rest + data).rpartition(b"\n")
            with self._changed:
                for found in self._line.finditer(lines):
                    self._count(found, life)
                self._changed.notify_all()

    def _count(self, found: re.Match[bytes], life: int) -> None:
        writer, fence, page, begun, begun_page, counted, mark = found.groups()
        if mark:
            self._marks.add(mark)
        elif writer:
            self._fences[writer.decode(), int(page)].add(fence)
        elif begun:
            self._begun = begun.decode(), int(begun_page)
        elif self._begun and self._begun[0] == counted.decode():
            self._outcomes[life, self._begun] += 1
            self._begun = None
