"""The worker processes of one machine: started as planned, started again when they end, drained together."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from producer.backoff import Backoff
from producer.errors import Unavailable
from producer.ledger import Ledger
from producer.plan import WorkerPlan
from producer.processes import PYTHON, Process, ended_by
from producer.settings import Settings, as_environment

log = structlog.get_logger(__name__)


@dataclass
class _Seat:
    """A place for one worker, and the process that has it now."""

    plan: WorkerPlan
    backoff: Backoff
    process: Process | None = None
    #: The worker's name in the ledger; another one for each process.
    node: str = field(default="", init=False)


class Workers:
    """With `log_dir`, each worker writes to a file there; without, to where this process does. `command` is what each
    of them runs.

    Use it from one thread, which lives as long as the workers do: Linux ends a child with the thread that started it.
    """

    def __init__(
        self,
        settings: Settings,
        plans: Sequence[WorkerPlan],
        *,
        log_dir: Path | None = None,
        command: Sequence[str] = (*PYTHON, "-m", "worker"),
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._log_dir = log_dir
        self._command = command
        self._clock = clock
        self._seats = [_Seat(plan, Backoff(clock=clock, chance=chance)) for plan in plans]
        self._ledger = Ledger(settings)
        self._any_was_ready = False
        self._ended: set[int] = set()

    @property
    def processes(self) -> list[Process]:
        """Those that have not been seen to end."""
        return [seat.process for seat in self._seats if seat.process is not None]

    def start(self) -> None:
        """Start all at once. Returns before they are warm."""
        for seat in self._seats:
            self._start(seat)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once every worker takes work.

        Raises:
            Unavailable: one ended, or was not warm in time; the end of its log is in the message.
        """
        for seat in self._seats:
            if seat.process is not None:
                seat.process.wait_until(partial(self._ledger.is_ready, seat.node), timeout_s)
                self._note_ready(seat)

    def run(self, stop: threading.Event, poll_s: float = 0.2) -> None:
        """Keep the workers running until `stop` is set, then drain them.

        Raises:
            Unavailable: see `tend`.
        """
        try:
            self.start()
            while not stop.wait(poll_s):
                self.tend()
            log.info("workers.drain", workers=len(self.processes))
        finally:
            self.stop()

    def tend(self) -> None:
        """Look at each worker once: one that ended is started again when its wait is over.

        Raises:
            Unavailable: each has ended, and none was ready ever: to try again would not help.
        """
        for seat in self._seats:
            if seat.process is None:
                if seat.backoff.is_due:
                    self._start_again(seat)
                continue
            has_ended = seat.process.popen.poll() is not None
            if not seat.backoff.is_ready:  # One that has ended may have been, since the last look.
                with suppress(Unavailable):  # Redis is away; the worker waits for it as well.
                    if self._ledger.is_ready(seat.node):
                        self._note_ready(seat)
                        log.info("worker.started", name=seat.plan.name, node=seat.node)
            if has_ended:
                self._note_end(seat, seat.process)
        if not self._any_was_ready and len(self._ended) == len(self._seats):
            raise Unavailable("No worker could start: their last lines say why.")

    def stop(self) -> None:
        """Drain all at the same time: each is asked once, and killed after `drain_timeout_s`.

        A KeyboardInterrupt meanwhile ends every one at once. What was being read is read again by another worker.
        """
        until = self._clock() + self._settings.drain_timeout_s
        try:
            for process in self.processes:
                process.ask_to_stop()
            for process in self.processes:
                process.await_end(max(0.0, until - self._clock()))
        except KeyboardInterrupt:
            for process in self.processes:
                process.kill()
            raise
        finally:
            self._ledger.close()

    def _start(self, seat: _Seat) -> None:
        seat.node = f"{seat.plan.name}-{uuid.uuid4().hex[:8]}"
        own = {**seat.plan.environment(), "OCRPOOL_NODE": seat.node}
        seat.process = Process(
            seat.plan.name,
            self._command,
            self._log_dir and self._log_dir / f"{seat.plan.name}.log",
            {**as_environment(self._settings), **own},
            cwd=self._log_dir or self._settings.data_dir,
            cpus=seat.plan.cpus,
        )

    def _start_again(self, seat: _Seat) -> None:
        """A machine that is short of memory, processes or disk for a while costs this seat a wait, and no other's."""
        try:
            self._start(seat)
        except OSError as error:
            log.warning("worker.not_started", name=seat.plan.name, error=str(error))
            seat.backoff.ended()

    def _note_ready(self, seat: _Seat) -> None:
        seat.backoff.ready()
        self._any_was_ready = True

    def _note_end(self, seat: _Seat, process: Process) -> None:
        seat.process = None
        self._ended.add(seat.plan.number)
        again_in_s = round(seat.backoff.ended(), 2)
        log_path = {"log": str(process.log_path)} if process.log_path else {}
        status = ended_by(process.popen.returncode)
        log.warning("worker.ended", name=seat.plan.name, by=status, again_in_s=again_in_s, **log_path)
