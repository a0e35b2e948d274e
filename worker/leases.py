"""Keeps this worker's leases alive, and tells the task threads which of them are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from producer.errors import Unavailable
from producer.ledger import Claim, Ledger

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Lease:
    """A claim that is renewed while it is held."""

    claim: Claim
    #: Set once the job has ended or another worker holds the unit: what is read from now on is refused.
    lost: threading.Event = field(default_factory=threading.Event)


class LeaseKeeper:
    """One thread that renews every held lease each `renew_s` seconds, and calls `beat` as often."""

    def __init__(self, ledger: Ledger, renew_s: float, beat: Callable[[], None] = lambda: None) -> None:
        self._ledger = ledger
        self._renew_s = renew_s
        self._beat = beat
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        self._thread.join()

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Lease]:
        """Renew the claim for as long as the context lasts. The ledger hears of its end from the caller."""
        lease = Lease(claim)
        with self._lock:
            self._held.add(lease)
        try:
            yield lease
        finally:
            with self._lock:
                self._held.discard(lease)

    def renew(self) -> None:
        """Renew every held lease once."""
        with self._lock:
            leases = list(self._held)
        for lease, stands in zip(leases, self._ledger.renew([lease.claim for lease in leases]), strict=True):
            if not stands:
                lease.lost.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._renew_s):
            try:
                self.renew()
                self._beat()
            except Unavailable as error:
                # The fence makes late writes harmless, so the pages are read on until the ledger is back.
                log.warning("leases.not_renewed", error=str(error))
            except Exception:
                log.exception("leases.failed")
