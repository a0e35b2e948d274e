"""The first rungs of the ablation: PP-OCR as people first deploy it, then with what the project adds, step by step.

    OneAtATime    PaddleX's own policies, sessions of default options, one page after the other
    FixedShapes   the project's predictors and shapes, still one page and one line at a time
    Batched       the engine in process: many pages at once through its batchers

Of all this package, this module and `ceiling` alone know what the predictors take and give.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from producer.cards import in_flight
from producer.errors import InvalidRequest
from producer.job import PageResult, ReadOptions
from producer.settings import Settings
from worker.bench.readers import Reader
from worker.detection import Detector
from worker.engines import PpOcr
from worker.predictors import Stage
from worker.predictors.endings import quantised
from worker.recognition import LINE_HEIGHT, LineInput, Recogniser, cuts, upright
from worker.runtimes import build_predictor, choose, default_run
from worker.shapes import resolve
from worker.tensors import HostKernels, Pixels, Shrunk, Tensor

#: PaddleX's pipeline OCR.yaml: a page's shorter side is enlarged to the least, its longer shrunk to the most.
LEAST_SIDE, MOST_SIDE = 736, 4000
#: Sides of the detector's input are rounded to these.
SIDE_STEP = 32
#: Lines a batch; least and most columns of one. Each is as wide as its widest line.
RECOGNISER_BATCH, LEAST_COLUMNS, MOST_COLUMNS = 6, 320, 3200


def load(path: str | Path) -> Pixels:
    """An image file as `uint8[H, W, 3]`, RGB."""
    read = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if read is None:
        raise InvalidRequest(f"{path} is not an image.")
    return np.asarray(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), np.uint8)


def paddlex_size(height: int, width: int) -> tuple[int, int]:
    """The size at which PaddleX shows a page to the detector."""
    ratio = max(1.0, LEAST_SIDE / min(height, width))
    ratio = min(ratio, MOST_SIDE / max(height, width))
    rows, columns = (max(SIDE_STEP, round(side * ratio / SIDE_STEP) * SIDE_STEP) for side in (height, width))
    return rows, columns


def paddlex_batches(widths: list[int]) -> list[tuple[list[int], int]]:
    """How PaddleX batches one page's lines, given in columns at full height: members, and the columns of the tensor."""
    order = sorted(range(len(widths)), key=widths.__getitem__)
    batches = []
    for start in range(0, len(order), RECOGNISER_BATCH):
        members = order[start : start + RECOGNISER_BATCH]
        batches.append((members, min(MOST_COLUMNS, max(LEAST_COLUMNS, *(widths[n] for n in members)))))
    return batches


def greedy(scores: Tensor, characters: tuple[str, ...]) -> list[str]:
    """The texts of `float32[N, T, C]`, character by character in Python, as the pipelines measured here decode them."""
    texts = []
    for steps in scores.argmax(axis=2):
        last, text = 0, []
        for step in steps.tolist():
            if step not in (0, last):
                text.append(characters[step])
            last = step
        texts.append("".join(text))
    return texts


class OneAtATime(Reader):
    """PP-OCR behind one lock, with PaddleX's resizing and batching of one page's lines."""

    def __init__(self) -> None:
        settings = Settings()
        choice = choose(settings)
        self.model = f"{choice.model.fingerprint} {choice.execution}"
        self._characters = choice.model.characters
        self._detect = default_run(choice, Stage.DETECTOR)
        self._recognise = default_run(choice, Stage.RECOGNISER)
        self._detector = Detector(resolve(settings, choice.shapes))
        self._kernels = HostKernels()

    def read(self, path: str) -> str:
        page = load(path)
        size = paddlex_size(*page.shape[:2])
        item = Shrunk(page, *size)
        maps = quantised(self._detect(self._kernels.shrink([item], 1, size)))
        quads, columns = upright(self._detector.finish(maps[0], item), MOST_COLUMNS)
        widths: list[int] = columns.tolist()
        texts = [""] * len(widths)
        for members, width in paddlex_batches(widths):
            bucket = (LINE_HEIGHT, width)
            lines = cuts([LineInput(page, quads[n], widths[n], bucket) for n in members])
            scores = self._recognise(self._kernels.cut(lines, len(members), bucket))
            for n, text in zip(members, greedy(scores, self._characters), strict=True):
                texts[n] = text
        return "\n".join(filter(None, texts))


class FixedShapes(Reader):
    """The project's predictors with every core in each call; the page's lines one after the other."""

    def __init__(self) -> None:
        settings = Settings()
        choice = choose(settings)
        self.model = f"{choice.model.fingerprint} {choice.execution}"
        shapes = replace(resolve(settings, choice.shapes), detector_batches=(1,), recogniser_batches=(1,))
        threads = settings.predictor_threads or len(os.sched_getaffinity(0))
        execution = replace(choice.execution, threads=threads)
        self._detector, self._recogniser = Detector(shapes), Recogniser(choice.model, shapes)
        self._detecting = build_predictor(choice.model, Stage.DETECTOR, self._detector.shapes, execution)
        self._recognising = build_predictor(choice.model, Stage.RECOGNISER, self._recogniser.shapes, execution)
        self._warm = False

    def close(self) -> None:
        for predictor in (self._detecting, self._recognising):
            predictor.close()

    def read(self, path: str) -> str:
        if not self._warm:  # in the thread that reads: what ONNX Runtime records on a card belongs to it
            self._detecting.warm_up()
            self._recognising.warm_up()
            self._warm = True
        page = self._detecting.kernels.load(load(path))
        item, bucket = self._detector.prepare(page)
        (text,) = self._detector.run(self._detecting, bucket, [item])
        lines = self._recogniser.prepare(page, self._detector.finish(text, item))
        texts = [self._recogniser.run(self._recognising, line.bucket, [line])[0].text for line in lines]
        return "\n".join(filter(None, texts))


@dataclass
class _Decoded:
    """A `worker.rasterise.Raster` in memory of this process."""

    pixels: Pixels
    width: int
    height: int
    angle: int = 0


class Batched(Reader):
    """The engine in this process, with as many pages in it as a worker reads at a time."""

    def __init__(self) -> None:
        settings = Settings()
        self.engine = PpOcr(settings)
        self.width = in_flight(settings, on_card=self.engine.on_card).pages
        self.model = self.engine.model
        self.engine.start()

    def read(self, path: str) -> str:
        return self.read_page(path).text

    def close(self) -> None:
        self.engine.stop()

    def read_page(self, path: str) -> PageResult:
        with self.engine.passage(ReadOptions(), math.inf, lambda: False) as passage:
            pixels = load(path)
            return passage.read(1, _Decoded(pixels, pixels.shape[1], pixels.shape[0]), 0.0)
