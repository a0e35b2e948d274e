"""Keeps this worker's leases alive, and tells the task threads which of them are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from producer.ledger import Claim, Ledger
from worker.periodic import Periodic


@dataclass(eq=False)
class Lease:
    """A claim that is renewed while it is held."""

    claim: Claim
    #: By this process's clock.
    began: float = field(default_factory=time.perf_counter)
    #: Set once the job has ended or another worker holds the unit: what is read from now on is refused.
    lost: threading.Event = field(default_factory=threading.Event)
    #: Set once the device has failed under one of its pages, which may be the cause.
    suspect: threading.Event = field(default_factory=threading.Event)


class LeaseKeeper(Periodic):
    """Renews every held lease each `renew_s` seconds, and calls `beat` as often."""

    def __init__(self, ledger: Ledger, renew_s: float, beat: Callable[[], None] = lambda: None) -> None:
        super().__init__("leases", renew_s, self._renew_and_beat)
        self._ledger = ledger
        self._beat = beat
        self._held: set[Lease] = set()
        self._lock = threading.Lock()

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

    @property
    def held(self) -> list[Lease]:
        """The leases that are being renewed."""
        with self._lock:
            return list(self._held)

    def job_ended(self, job_id: str) -> None:
        """Let go of all that is held of the job, without waiting for the next renewal."""
        for lease in self.held:
            if lease.claim.job.id == job_id:
                lease.lost.set()

    def renew(self) -> None:
        """Renew every held lease once. While the ledger is away, pages are read on: the fence makes that harmless."""
        leases = self.held
        for lease, stands in zip(leases, self._ledger.renew([lease.claim for lease in leases]), strict=True):
            if not stands:
                lease.lost.set()

    def _renew_and_beat(self) -> None:
        self.renew()
        self._beat()
