"""Everything that one worker process holds beside its card, and the order in which it starts and stops."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from functools import partial

import structlog

from producer.blobs import BlobStore, Probe, open_store
from producer.cards import cards_for, in_flight
from producer.cpus import as_ranges
from producer.dead import bury_message
from producer.errors import Unavailable
from producer.escaping import escaped
from producer.job import PREPARE
from producer.ledger import Ledger
from producer.queue import Publisher
from producer.settings import Settings
from worker import jpegs, metrics
from worker.channel import HintChannel
from worker.company import Company
from worker.device import Trouble
from worker.engines import Engine, PpOcr
from worker.health import HealthServer
from worker.intake import Intake
from worker.leases import LeaseKeeper
from worker.page_cache import PageCache, manner
from worker.rasterise import Rasteriser, Rasters
from worker.sweeper import Sweeper
from worker.turns import Turns
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

#: Characters of the reason why a message was refused: a stranger may have written them.
MOST_REASON = 500
#: Time that Redis has to answer where waiting longer would cost a lease.
PROMPT_S = 3
#: Time that the drain waits for the word that this worker takes no more.
WITHDRAWAL_S = 1


class Station:
    """One worker's ledger, blobs, decoders, engine and threads. `queues` are those that its messages come from."""

    def __init__(
        self,
        settings: Settings,
        *,
        queues: Sequence[str],
        ledger: Ledger | None = None,
        blobs: BlobStore | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.settings = settings
        self.name = settings.node or f"{socket.gethostname()}-{os.getpid()}"
        self.blobs: BlobStore = blobs or (ledger.blobs if ledger else open_store(settings))
        self.ledger = ledger or Ledger(settings, blobs=self.blobs)
        self.publisher = Publisher(settings)
        self.rasteriser = Rasteriser(settings)
        self.engine: Engine = engine or PpOcr(settings)
        #: What pages are read with: the rasteriser, or what stands before it.
        self.rasters: Rasters = self._rasters()
        self._reader = manner(self.engine, settings)
        self.page_cache = PageCache(self.ledger, settings, self._reader)
        self.in_flight = in_flight(settings, on_card=self.engine.on_card)
        self.pages = Turns(self.in_flight.pages)
        #: Who reads beside whom: what ends this process counts a death for all that it holds.
        self.company = Company()
        # Leases are renewed on connections of their own, given up early: a half-open one would let them lapse.
        self._prompt_ledger = Ledger(settings, blobs=self.blobs, timeout_s=PROMPT_S)
        self.leases = LeaseKeeper(self._prompt_ledger, settings.lease_renew_s, self._announce)
        self.sweeper = Sweeper(self.ledger, self.publisher, self.blobs, settings.sweep_interval_s)
        self.health = HealthServer(
            settings.worker_metrics_host, settings.worker_metrics_port, self._trouble, Probe(self.blobs).trouble
        )
        #: Tasks tell it of each message.
        self.intake = Intake(
            partial(self.ledger.messages, queues), lambda: bool(self.leases.held), settings.intake_timeout_s
        )
        self.watchdog = Watchdog([self.engine.trouble, self.intake.trouble], self._hand_back, settings.batch_timeout_s)
        #: Set once this worker takes no more work.
        self.stopping = threading.Event()
        self._ready = False
        self._device = "cpu"

    def _rasters(self) -> Rasters:
        if self.settings.jpeg_decode == "sandbox":
            return self.rasteriser
        trouble = jpegs.missing() if self.engine.on_card else "the models run on the CPU"
        if not trouble:
            return jpegs.CardJpegs(self.rasteriser, self.settings)
        if self.settings.strict_runtime:
            raise Unavailable(f"JPEG files cannot be decoded on a card: {trouble}.")
        log.warning("jpegs.in_sandbox", because=trouble)
        return self.rasteriser

    def start(self) -> None:
        """Load and warm everything. The worker takes no message before this has returned."""
        found = cards_for(self.settings)
        cards = "; ".join(map(str, found.cards)) or f"none: {found.reason}"
        if self.engine.on_card and found.cards:
            self._device = str(found.cards[0])
        log.info("worker.starts", name=self.name, cards=cards, cpus=as_ranges(os.sched_getaffinity(0)))
        self.blobs.check()
        self.rasteriser.start()
        self.engine.start()
        self.pages.start()
        self.health.start()
        self.leases.start()
        self.sweeper.start()
        self.intake.start()
        self.watchdog.start()
        log.info(
            "worker.warm", name=self.name, engine=self.engine.name, model=self.engine.model, why=self.engine.reason
        )

    def ready(self) -> None:
        """Say in the ledger that this worker takes work."""
        self._ready = True
        self.intake.received()
        self._announce()
        log.info("worker.ready", name=self.name, metrics=f"http://{self.health.address}/metrics")

    def refuse(self, message: bytes, queue: str, reason: str) -> None:
        """Count a message that is not of this pool's contract, and keep it as a dead letter."""
        metrics.MESSAGES_REFUSED.inc()
        reason = escaped(reason)[:MOST_REASON]
        log.error("message.refused", queue=queue, reason=reason, size_bytes=len(message))
        try:
            bury_message(self.ledger, message, queue, reason)
        except Unavailable as error:
            log.warning("message.not_kept", error=str(error))

    def draining(self) -> None:
        """Say in the ledger that it takes no more.

        Called from a signal's handler, which must not hang where Redis does: after a moment the drain goes on.
        """
        self._ready = False
        self.stopping.set()
        self.intake.stop()
        withdrawal = threading.Thread(target=self._withdraw, name="withdrawal", daemon=True)
        withdrawal.start()
        withdrawal.join(WITHDRAWAL_S)
        HintChannel.silent = withdrawal.is_alive()

    def _withdraw(self) -> None:
        try:
            self._prompt_ledger.withdraw(self.name)
        except Unavailable as error:
            log.warning("worker.not_withdrawn", error=str(error))

    def stop(self) -> None:
        """Stop what still runs. Called once no task does: pages first, because they wait on the engine; leases after
        them, so that no other worker takes a page that is being finished. The watchdog guards the way there."""
        self.sweeper.stop()
        self.pages.stop()
        self.pages.join()
        self.engine.stop()
        self.rasteriser.stop()
        self.watchdog.stop()
        self.leases.stop()
        self.intake.stop()
        for thread in (self.sweeper, self.intake, self.watchdog, self.leases):
            thread.join()
        self.health.stop()
        self.publisher.close()
        self.ledger.close()
        self._prompt_ledger.close()

    def _hand_back(self, trouble: Trouble) -> None:
        """Before the process ends: what it holds is read again by others. What may be the cause counts a death, so that
        a page that ends every worker is found."""
        self.leases.stop()
        held = self.leases.held
        suspects = [
            lease for lease in held if lease.suspect.is_set() or (trouble.hangs and lease.claim.unit != PREPARE)
        ]
        try:
            self.ledger.let_lapse([lease.claim for lease in suspects])
            self.ledger.withdraw(self.name)
            others = [lease for lease in held if lease not in suspects]
            self.publisher.publish([unit for lease in others for unit in self.ledger.release(lease.claim, again=True)])
        except Unavailable as error:
            log.warning("worker.not_handed_back", error=str(error))

    def _trouble(self) -> str:
        found = self.engine.trouble() or self.intake.trouble()
        return found.reason if found else ""

    def _announce(self) -> None:
        if self._ready:
            description = {"pid": os.getpid(), "host": socket.gethostname(), "metrics": self.health.address}
            self._prompt_ledger.announce(
                self.name,
                {
                    **description,
                    "engine": self.engine.name,
                    "model": self.engine.model,
                    "device": self._device,
                    "pages": self.in_flight.pages,
                },
                self._reader,
            )
