"""An engine turns pages into page results. `pp-ocr` does it in two batched stages, and a third on request."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

from producer.errors import InvalidRequest, Unavailable
from producer.job import Line, PageResult, ReadOptions, Timings
from producer.settings import Settings
from producer.timeline import BatchShare
from worker import kernels, metrics
from worker.detection import Detector, Quads
from worker.device import Device, Trouble
from worker.groups import Batches
from worker.orientation import Orientation, settle
from worker.predictors import Predictor, Shape, Stage
from worker.rasterise import Raster
from worker.reading import arrange, as_quads
from worker.recognition import LineInput, LineText, Recogniser
from worker.runtimes import build_predictor, choose
from worker.shapes import resolve
from worker.stages import BatchedStage, In, Out, Run
from worker.tensors import Bucket, Page, portions

log = structlog.get_logger(__name__)

#: Batches of one stage that one process has on a card at a time.
CARD_RUNNERS = 1
#: Batches of all stages that one process has on a card, one running and one on its way, before windows count.
CARD_BATCHES = 2
#: What must be left of a card's memory once a worker is warm, for its pages that lie there and for what is made of
#: them: 64 scans of 300 dpi (26 MB each), or fewer photographs. A page that finds no room fails as
#: `engine_out_of_memory`.
CARD_ROOM_BYTES = 2_000_000_000
#: Of the batches that a page's items were in, so many are told for each stage.
MOST_SHARES = 12


class Passage(Protocol):
    """One page on its way through an engine."""

    def step_aside(self) -> None:
        """Say that the page may come to no batch, so that none waits for it. It may be read all the same."""
        ...

    @property
    def shares(self) -> dict[str, list[BatchShare]]:
        """The page's batches in each stage so far; the first few of them."""
        ...

    def read(self, page: int, raster: Raster, rasterise_ms: float) -> PageResult:
        """The page's text. Blocks until its batches are through.

        Raises:
            InvalidRequest: orientation was asked for, which the model cannot tell.
            JobEnded: the job's deadline passed, or it was cancelled, before the page was read.
            ProcessingError: the models failed on this page.
        """
        ...


class Engine(Protocol):
    """Pages in, page results out. Safe to share between threads."""

    name: str
    #: Names the models, their files and the runtime.
    model: str
    #: Whether the models run on a card.
    on_card: bool
    #: One sentence: which predictor was picked, and why.
    reason: str

    def start(self) -> None:
        """Load and warm the models: once it returns, no page waits for either."""
        ...

    def stop(self) -> None:
        """Let the queued pages through, then free the models."""
        ...

    def trouble(self) -> Trouble | None:
        """What keeps the engine from reading, if anything does. Does not block, whatever hangs."""
        ...

    def passage(
        self, options: ReadOptions, deadline: float, cancelled: Callable[[], bool]
    ) -> AbstractContextManager[Passage]:
        """Announce a page before it is rasterised, so that batches wait for it and for nothing else.

        `deadline` is on `time.monotonic`'s clock; the page is dropped when it has passed or `cancelled()` is true.
        """
        ...


class PpOcr:
    """PP-OCR: the detector finds lines, the recogniser reads them; text-line orientation stands between on request."""

    name = "pp-ocr"

    def __init__(self, settings: Settings) -> None:
        choice = choose(settings)
        self.model = f"{choice.model.fingerprint} {choice.execution}"
        self.reason = choice.reason
        shapes = resolve(settings, choice.shapes)
        self.detector = Detector(shapes)
        self.recogniser = Recogniser(choice.model, shapes)
        self.orientation = Orientation(shapes)
        # On a CPU, one thread for each of several batches beats several threads inside one.
        self.on_card = choice.execution.device != "cpu"
        runners = CARD_RUNNERS if self.on_card else settings.predictor_threads or len(os.sched_getaffinity(0))
        self._longest_s = settings.batch_timeout_s
        self._device = device = Device(CARD_BATCHES if self.on_card else runners)

        def stage(
            kind: Stage,
            shapes: Iterable[Shape],
            run: Run[In, Out],
            max_batch: Callable[[Bucket], int],
            downstream: Callable[[bool], int] = lambda urgent: 0,
        ) -> BatchedStage[In, Out]:
            predictors = [build_predictor(choice.model, kind, shapes, choice.execution) for _ in range(runners)]
            sizes: dict[Bucket, list[int]] = defaultdict(list)
            for shape in sorted(shapes):
                sizes[shape.height, shape.width].append(shape.batch)
            return BatchedStage(
                kind.value,
                run,
                max_batch,
                slots=lambda bucket, items: sum(portions(sizes[bucket], items)),
                downstream=downstream,
                device=device,
                predictors=predictors,
                on_card=self.on_card,
                settings=settings,
            )

        detector, turner, recogniser = self.detector, self.orientation, self.recogniser
        self.recognising = stage(Stage.RECOGNISER, recogniser.shapes, self._recognise, recogniser.max_batch)
        self.detecting = stage(
            Stage.DETECTOR,
            detector.shapes,
            detector.run,
            detector.max_batch,
            downstream=self.recognising.batcher.full_batches,
        )
        #: Not every model comes with a classifier.
        self.turning = (
            stage(Stage.ORIENTATION, turner.shapes, turner.run, turner.max_batch)
            if choice.model.tells_orientation
            else None
        )

    def _recognise(self, predictor: Predictor, bucket: Bucket, lines: list[LineInput]) -> list[LineText]:
        for kind, pixels in zip(("text", "padding", "empty"), self.recogniser.pixels(bucket, lines), strict=True):
            metrics.LINE_PIXELS.labels(kind).inc(pixels)
        return self.recogniser.run(predictor, bucket, lines)

    @property
    def stages(self) -> tuple[BatchedStage[Any, Any], ...]:
        """In the order in which a page passes them."""
        return tuple(stage for stage in (self.detecting, self.turning, self.recognising) if stage is not None)

    def start(self) -> None:
        for stage in self.stages:
            stage.batcher.start()
        if self.on_card and not kernels.missing():
            _check_memory()
            metrics.CARD_MEMORY.labels("free").set_function(_measured(lambda: kernels.memory()[0]))
            metrics.CARD_MEMORY.labels("used").set_function(_measured(lambda: kernels.arena()[0]))
            metrics.CARD_MEMORY.labels("held").set_function(_measured(lambda: kernels.arena()[1]))

    def stop(self) -> None:
        for stage in self.stages:
            stage.close()

    def trouble(self) -> Trouble | None:
        found = (self._device.trouble(self._longest_s), *(stage.trouble() for stage in self.stages))
        return next(filter(None, found), None)

    @contextmanager
    def passage(self, options: ReadOptions, deadline: float, cancelled: Callable[[], bool]) -> Iterator[Passage]:
        turned = self.turning if options.orientation else None
        turning = turned.page_coming() if turned is not None else nullcontext(lambda: None)
        with (
            self.detecting.page_coming() as at_detector,
            turning as at_turner,
            self.recognising.page_coming() as at_recogniser,
        ):
            yield _PpOcrPassage(self, options, deadline, cancelled, at_detector, at_turner, at_recogniser)


def _measured(measure: Callable[[], float]) -> Callable[[], float]:
    """What is measured, or NaN: a card that has failed takes no other metric along."""

    def value() -> float:
        try:
            return measure()
        except Exception:
            return math.nan

    return value


def _check_memory() -> None:
    """Say what the warm models have left of the card.

    Raises:
        Unavailable: too little for pages.
    """
    free, total = kernels.memory()
    log.info("card.memory", free_bytes=free, total_bytes=total)
    if free < CARD_ROOM_BYTES:
        raise Unavailable(
            f"The card has {free / 1e9:.1f} of its {total / 1e9:.0f} GB left once the models are warm, and pages "
            f"need {CARD_ROOM_BYTES / 1e9:.0f}: run fewer workers on it (OCRPOOL_WORKERS_PER_CARD), or give them "
            "fewer shapes (OCRPOOL_DETECTOR_SIZES, OCRPOOL_RECOGNISER_WIDTHS)."
        )


@dataclass(frozen=True)
class _PpOcrPassage:
    engine: PpOcr
    options: ReadOptions
    deadline: float
    cancelled: Callable[[], bool]
    at_detector: Callable[[], None]
    at_turner: Callable[[], None]
    at_recogniser: Callable[[], None]
    shares: dict[str, list[BatchShare]] = field(default_factory=dict)

    def step_aside(self) -> None:
        for has_come in (self.at_detector, self.at_turner, self.at_recogniser):
            has_come()

    def read(self, page: int, raster: Raster, rasterise_ms: float) -> PageResult:
        started = time.perf_counter()
        loaded = self.engine.detecting.load(raster.pixels)
        quads = self._detect(loaded)
        detected = time.perf_counter()
        lines = self._recognise(loaded, quads)
        recognised = time.perf_counter()
        ordered, text = arrange(lines)
        return PageResult(
            page=page,
            width=raster.width,
            height=raster.height,
            angle=raster.angle,
            lines=ordered,
            text=text,
            engine=self.engine.name,
            model=self.engine.model,
            timings=Timings(
                rasterise_ms=round(rasterise_ms, 3),
                detect_ms=round(1000 * (detected - started), 3),
                recognise_ms=round(1000 * (recognised - detected), 3),
            ),
        )

    def _detect(self, page: Page) -> Quads:
        item, bucket = self.engine.detector.prepare(page)
        answers = self._submit(self.engine.detecting, [item], [bucket])
        self.at_detector()
        return self.engine.detector.finish(answers()[0], item)

    def _recognise(self, page: Page, quads: Quads) -> list[Line]:
        lines = self.engine.recogniser.prepare(page, quads)
        angles = self._turn(lines) if self.options.orientation else [0] * len(lines)
        lines = [line.turned() if angle else line for line, angle in zip(lines, angles, strict=True)]
        answers = self._submit(self.engine.recognising, lines, [line.bucket for line in lines])
        self.at_recogniser()
        return [
            Line(quad=quad, text=read.text, score=min(1.0, read.score), angle=angle)
            for quad, read, angle in zip(as_quads(quads), answers(), angles, strict=True)
            if read.text and read.score >= self.options.min_score
        ]

    def _turn(self, lines: list[LineInput]) -> list[Literal[0, 180]]:
        turning = self.engine.turning
        if turning is None:
            raise InvalidRequest(f"The pool's model {self.engine.model} has no classifier: ask without orientation.")
        items = self.engine.orientation.prepare(lines)
        answers = self._submit(turning, items, [item.bucket for item in items])
        self.at_turner()
        turned = settle(lines, answers())
        return [180 if turn else 0 for turn in turned]

    def _submit(
        self, stage: BatchedStage[In, Out], items: Sequence[In], buckets: Sequence[Bucket]
    ) -> Callable[[], list[Out]]:
        """Hand the items in; what is returned waits for their answers, and keeps what batches they were in."""
        batches: Batches = []
        submitted_at = time.monotonic()
        future = stage.batcher.submit_many(
            items,
            buckets=buckets,
            lane=self.options.lane,
            deadline=self.deadline,
            cancelled=self.cancelled,
            batches=batches,
        )

        def answers() -> list[Out]:
            try:
                return future.result()
            finally:
                name = stage.batcher.name
                self.shares[name] = [record.share(items, submitted_at) for record, items in batches[:MOST_SHARES]]

        return answers
