"""The first rungs of the ablation: PP-OCR as people first deploy it, then with what the project adds, step by step.

    OneAtATime    PaddleX's own policies, sessions of default options, one page after the other
    FixedShapes   the project's predictors and shapes, still one page and one line at a time
    Batched       the engine in process: many pages at once through its batchers

Of all this package, this module and `ceiling` alone know what the predictors take and give.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from producer.errors import InvalidRequest
from producer.job import PageResult, ReadOptions
from producer.settings import Settings
from worker.bench.meter import on_card
from worker.bench.readers import Reader
from worker.detection import Detector, DetectorInput
from worker.engines import PpOcr
from worker.models import Stage, build_predictor, choose_predictor, default_run
from worker.predictors import Tensor
from worker.rasterise import RasterPage
from worker.recognition import LINE_HEIGHT, Recogniser, crop
from worker.tensors import Pixels, assemble

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
        model = choose_predictor(settings).model
        self.model = model.fingerprint
        self._characters = model.characters
        self._detect = default_run(model, Stage.DETECTOR, on_card=on_card(self.model))
        self._recognise = default_run(model, Stage.RECOGNISER, on_card=on_card(self.model))
        self._detector = Detector(settings)

    def read(self, path: str) -> str:
        page = load(path)
        rows, columns = paddlex_size(*page.shape[:2])
        scaled = np.asarray(cv2.resize(page, (columns, rows)), np.uint8)
        probabilities = self._detect(assemble([scaled], 1, (rows, columns)))[0, 0]
        quads = self._detector.finish(probabilities, DetectorInput(scaled, *page.shape[:2]))
        lines = [crop(page, quad, MOST_COLUMNS) for quad in quads]
        texts = [""] * len(lines)
        for members, width in paddlex_batches([line.shape[1] for line in lines]):
            batch = assemble([lines[n] for n in members], len(members), (LINE_HEIGHT, width))
            for n, text in zip(members, greedy(self._recognise(batch), self._characters), strict=True):
                texts[n] = text
        return "\n".join(filter(None, texts))


class FixedShapes(Reader):
    """The project's predictors with every core in each call; the page's lines one after the other."""

    def __init__(self) -> None:
        settings = Settings().model_copy(update={"detector_batches": (1,), "recogniser_batches": (1,)})
        model = choose_predictor(settings).model
        self.model = model.fingerprint
        threads = settings.predictor_threads or os.cpu_count() or 1
        self._detector, self._recogniser = Detector(settings), Recogniser(model, settings)
        self._detecting = build_predictor(model, Stage.DETECTOR, self._detector.shapes, threads)
        self._recognising = build_predictor(model, Stage.RECOGNISER, self._recogniser.shapes, threads)
        for predictor in (self._detecting, self._recognising):
            predictor.warm_up()

    def close(self) -> None:
        for predictor in (self._detecting, self._recognising):
            predictor.close()

    def read(self, path: str) -> str:
        page = load(path)
        item, bucket = self._detector.prepare(page)
        (probabilities,) = self._detector.run(self._detecting, bucket, [item])
        lines = self._recogniser.prepare(page, self._detector.finish(probabilities, item))
        texts = [self._recogniser.run(self._recognising, line.bucket, [line])[0].text for line in lines]
        return "\n".join(filter(None, texts))


@dataclass(frozen=True)
class _Decoded:
    """What an engine needs of a `RasterPage`, on memory of this process."""

    pixels: Pixels
    angle: int = 0


class Batched(Reader):
    """The engine in this process, with as many pages in it as a worker reads at a time."""

    def __init__(self) -> None:
        settings = Settings()
        self.width = settings.pages_in_flight
        self.engine = PpOcr(settings)
        self.model = self.engine.model
        self.engine.start()

    def read(self, path: str) -> str:
        return self.read_page(path).text

    def close(self) -> None:
        self.engine.stop()

    def read_page(self, path: str) -> PageResult:
        with self.engine.passage(ReadOptions(), math.inf, lambda: False) as passage:
            return passage.read(1, cast(RasterPage, _Decoded(load(path))), 0.0)
