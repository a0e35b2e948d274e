"""One stage of an engine: a model behind a batcher, and the count of pages that may still come to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from producer.cards import in_flight
from producer.errors import EngineOutOfMemory
from producer.settings import Settings
from worker import metrics
from worker.batcher import Batcher, BatchObserver
from worker.device import Device
from worker.predictors import Predictor
from worker.tensors import Bucket, Page, Pixels

In = TypeVar("In")
Out = TypeVar("Out")
Run = Callable[[Predictor, Bucket, list[In]], Sequence[Out]]

#: Items that may wait before a stage, for each page in flight: beyond it `submit` blocks, which bounds the memory.
_LINES_PER_PAGE = 256
#: A batch that runs longer than this hangs: it is many times what the largest shape takes on one slow core.
_STUCK_S = 120


class BatchedStage(Generic[In, Out]):
    """One model behind one batcher, with a predictor for each runner thread, and a count of the pages still to come."""

    def __init__(
        self,
        name: str,
        run: Run[In, Out],
        max_batch: Callable[[Bucket], int],
        *,
        slots: Callable[[Bucket, int], int],
        downstream: Callable[[bool], int],
        device: Device,
        predictors: Sequence[Predictor],
        settings: Settings,
        observer: BatchObserver | None = metrics.observe_batch,
    ) -> None:
        self.predictors = predictors
        self._coming = 0
        self._lock = threading.Lock()
        self.batcher: Batcher[Bucket, In, Out] = Batcher(
            name,
            [partial(run, predictor) for predictor in predictors],
            max_batch=max_batch,
            max_delay_s=settings.max_delay_ms / 1000,
            capacity=in_flight(settings).pages * _LINES_PER_PAGE,
            device=device,
            upstream=lambda: self._coming,
            downstream=downstream,
            # In the thread that will run it: what ONNX Runtime records on a card belongs to the thread.
            prepare=[predictor.warm_up for predictor in predictors],
            slots=slots,
            observer=observer,
        )

    def load(self, pixels: Pixels) -> Page:
        """Bring a page to where the stage's batches are made.

        Raises:
            EngineOutOfMemory: there is no room for it.
        """
        try:
            return self.predictors[0].kernels.load(pixels)
        except MemoryError as error:
            raise EngineOutOfMemory from error

    def trouble(self) -> str:
        if self.batcher.runners_alive < len(self.predictors):
            return f"{self.batcher.name}: a runner has ended"
        if (stuck_s := time.monotonic() - self.batcher.last_progress) > _STUCK_S:
            return f"{self.batcher.name}: a batch has been running for {stuck_s:.0f} s"
        return ""

    def close(self) -> None:
        self.batcher.stop()
        self.batcher.join()
        for predictor in self.predictors:
            predictor.close()

    @contextmanager
    def page_coming(self) -> Iterator[Callable[[], None]]:
        """Count a page that may still submit items. The yielded function says that it has; so does leaving."""
        came = threading.Event()

        def has_come() -> None:
            with self._lock:
                if came.is_set():
                    return
                came.set()
                self._coming -= 1
            self.batcher.notify()

        with self._lock:
            self._coming += 1
        try:
            yield has_come
        finally:
            has_come()
