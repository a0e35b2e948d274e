"""Readers in processes of their own, as this process sees them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from producer.errors import Unavailable
from producer.settings import Settings, as_environment
from worker.bench.load import Answer
from worker.bench.meter import Meter, card_memory_bytes, on_card

#: Longest time to load and warm a reader: TensorRT builds its engines in minutes.
READY_S = 900.0
STOP_S = 30.0


class Child:
    """A process of `worker.bench.child` and the questions that it has not answered yet."""

    def __init__(self, kind: str, settings: Settings, own: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.bench.child", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **as_environment(settings), **(own or {})},
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order.
        )
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._ready: Future[dict[str, Any]] = Future()
        self._numbers = 0
        self._thread = threading.Thread(target=self._listen, name=f"child-{kind}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self) -> dict[str, Any]:
        """What the reader says of itself once it is warm.

        Raises:
            Unavailable: the reader cannot run here; the message says why.
        """
        try:
            ready = self._ready.result(READY_S)
        except TimeoutError:
            raise Unavailable(f"{self.kind} was not ready within {READY_S:.0f} s") from None
        if not ready["ready"]:
            raise Unavailable(ready["error"])
        return ready

    def ask(self, method: str, argument: str) -> Future[Any]:
        """The future of the answer; it raises `Unavailable` with the reader's own sentence."""
        answer: Future[Any] = Future()
        with self._lock:
            self._numbers += 1
            self._asked[self._numbers] = answer
            question = {"id": self._numbers, "method": method, "argument": argument}
            stdin = self._process.stdin
            if self._process.poll() is not None or stdin is None:
                answer.set_exception(self._death())
                return answer
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
        return answer

    def stop(self) -> None:
        """Let it end by itself, or end it."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it is gone already
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self._ready.set_result(message)
                continue
            with self._lock:
                answer = self._asked.pop(message["id"])
            if "error" in message:
                answer.set_exception(Unavailable(message["error"]))
            else:
                answer.set_result(message["value"])
        self._process.wait()
        death = self._death()
        with self._lock:
            waiting = list(self._asked.values())
            self._asked.clear()
        for answer in waiting:
            answer.set_exception(death)
        if not self._ready.done():
            self._ready.set_result({"ready": False, "error": str(death)})

    def _death(self) -> Unavailable:
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        return Unavailable(f"{self.kind} ended with status {self._process.returncode}: {' '.join(last)}")


class ChildService:
    """A `Service` of one child or, for a client that would not keep up alone, of several."""

    def __init__(
        self,
        name: str,
        children: Sequence[Child],
        *,
        model: str,
        width: int,
        pids: Sequence[int],
        own_card_bytes: int,
    ) -> None:
        self.name = name
        self.width = width
        self.model = model
        #: The roots of the processes that do the work.
        self.pids = tuple(pids)
        self._own_card_bytes = own_card_bytes
        self._children = children
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def submit(self, number: int, path: Path) -> None:
        child = self._children[number % len(self._children)]
        child.ask("read", str(path)).add_done_callback(lambda future: self._answers.put(_answer(number, future)))

    def answered(self, timeout_s: float) -> Answer | None:
        try:
            return self._answers.get(timeout=max(0.0, timeout_s)) if timeout_s > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None

    def meter(self) -> Meter:
        """A meter of the processes that do the work."""
        return Meter(self.pids, on_card=on_card(self.model), own_card_bytes=self._own_card_bytes, clock=time.monotonic)


def _answer(number: int, future: Future[Any]) -> Answer:
    error = future.exception()
    return Answer(number, error=str(error)) if error is not None else Answer(number, text=future.result())


@contextmanager
def reading(name: str, kind: str, settings: Settings) -> Iterator[ChildService]:
    """A service of one reader, loaded and warm.

    Raises:
        Unavailable: the reader cannot run here; the message says why.
    """
    before = card_memory_bytes()
    child = Child(kind, settings)
    try:
        ready = child.await_ready()
        yield ChildService(
            name,
            [child],
            model=ready["model"],
            width=ready["width"],
            pids=[child.pid],
            own_card_bytes=card_memory_bytes() - before,
        )
    finally:
        child.stop()
