"""One stage of an engine: a model behind a batcher, and the count of pages that may still come to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from producer.cards import in_flight
from producer.errors import EngineOutOfMemory, Unavailable
from producer.settings import Settings
from worker import metrics
from worker.batcher import Batcher
from worker.device import Device, DeviceFailed, Trouble
from worker.predictors import Predictor
from worker.runs import BatchObserver
from worker.tensors import Bucket, Page, Pixels

In = TypeVar("In")
Out = TypeVar("Out")
Run = Callable[[Predictor, Bucket, list[In]], Sequence[Out]]

#: Items that may wait before a stage, for each page in flight: beyond it `submit` blocks, which bounds the memory.
_LINES_PER_PAGE = 256


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
        on_card: bool,
        settings: Settings,
        observer: BatchObserver | None = metrics.observe_batch,
    ) -> None:
        self.predictors = predictors
        self._device = device
        self._longest_s = settings.batch_timeout_s
        self._coming = 0
        self._lock = threading.Lock()
        self.batcher: Batcher[Bucket, In, Out] = Batcher(
            name,
            [partial(run, predictor) for predictor in predictors],
            max_batch=max_batch,
            max_delay_s=settings.max_delay_ms / 1000,
            capacity=in_flight(settings, on_card=on_card).pages * _LINES_PER_PAGE,
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
            DeviceFailed: the device failed meanwhile.
            Unavailable: it had failed before.
        """
        if self._device.failure:
            raise Unavailable(f"The device takes no page: {self._device.failure}.")
        try:
            with self._device.call(lambda: f"a page of {pixels.shape[1]} x {pixels.shape[0]} pixels on its way there"):
                return self.predictors[0].kernels.load(pixels)
        except MemoryError as error:
            raise EngineOutOfMemory from error
        except DeviceFailed as error:
            self._device.fail(str(error))
            raise

    def trouble(self) -> Trouble | None:
        """What keeps this stage, not its device, from reading."""
        return self.batcher.trouble(self._longest_s)

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
