"""Finds what nobody holds: spans of workers that died, messages that the broker lost, jobs past their deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import structlog

from producer.blobs import BlobStore
from producer.errors import OcrpoolError, Unavailable
from producer.ledger import ORPHAN_S, Ledger, Swept
from producer.queue import Publisher, queue_prefix
from worker.periodic import Periodic

log = structlog.get_logger(__name__)

#: A blob that could not be deleted is tried again after this many seconds.
UNDELETED_S = 3600
#: Jobs that are taken out of the lists in one go at least, if there may be more of them.
FORGOTTEN_AT_ONCE = 500
#: A walk through the blob folder for unfinished files, in seconds.
LOOK_AGAIN_S = 600


class Sweeper(Periodic):
    """Runs in every worker; a lock in Redis lets one of them sweep in each interval."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        blobs: BlobStore,
        interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("sweeper", interval_s, self.sweep)
        self._ledger = ledger
        self._publisher = publisher
        self._blobs = blobs
        self._clock = clock
        self._look_again_at = clock()

    def sweep(self) -> Swept | None:
        """Sweep once; None when another worker has swept in this interval."""
        if not self._ledger.take_turn(0.9 * self._interval_s):
            return None
        swept = self._sweep_once()
        while swept.more and not self._stopping.is_set():
            swept += self._sweep_once()
        while self._ledger.forget_jobs() >= FORGOTTEN_AT_ONCE and not self._stopping.is_set():
            pass
        self._delete_unfinished()
        if swept.publish:
            log.info("sweeper.published_again", units=len(swept.publish), deaths=swept.deaths)
        return swept

    def _sweep_once(self) -> Swept:
        swept = self._ledger.sweep(queue_prefix(self._ledger.settings))
        self._publisher.publish(swept.publish)
        deleted = list(self._delete(swept.blobs))
        self._ledger.forget_blobs(deleted)
        self._ledger.postpone_blobs([blob for blob in swept.blobs if blob not in deleted], UNDELETED_S)
        return swept

    def _delete_unfinished(self) -> None:
        """Uploads whose process was killed; looked for as seldom as they come to be due."""
        if self._clock() < self._look_again_at:
            return
        self._look_again_at = self._clock() + LOOK_AGAIN_S
        try:
            deleted = self._blobs.delete_unfinished(ORPHAN_S)
        except (OSError, OcrpoolError) as error:
            log.warning("sweeper.unfinished_not_deleted", error=str(error))
        else:
            if deleted:
                log.info("sweeper.unfinished_deleted", files=deleted)

    def _delete(self, blobs: Iterable[str]) -> Iterator[str]:
        """Those that are gone. One that cannot be deleted keeps no other from it; a store that cannot be reached is not
        asked for each of them, for units wait to be found meanwhile."""
        for blob in blobs:
            try:
                self._blobs.delete(blob)
            except Unavailable as error:
                log.warning("sweeper.blobs_not_deleted", error=str(error))
                return
            except Exception as error:
                log.warning("sweeper.blob_not_deleted", blob=blob, error=str(error))
            else:
                yield blob
