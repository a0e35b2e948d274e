"""What the predictors could do if they never waited: the tensors that the engine fed them, replayed and nothing else.

The tensors also tell how the recogniser's batches were filled: a normalised pixel is never 0, padding always is.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from producer.settings import Settings
from worker.bench.baseline import Batched, paddlex_batches
from worker.predictors import Answers, Predictor, Shape, Stage
from worker.recognition import LINE_HEIGHT
from worker.runtimes import build_predictor, choose
from worker.tensors import Batch

#: The stages that are recorded: those that every page passes.
STAGES = (Stage.DETECTOR, Stage.RECOGNISER)


def line_widths(batch: Batch) -> list[int]:
    """The columns that each slot's line fills; 0 for an empty slot."""
    pixels = batch if isinstance(batch, np.ndarray) else batch.get()
    filled = (pixels != 0).any(axis=(1, 2))
    width = filled.shape[1]
    return [int(width - columns[::-1].argmax()) if columns.any() else 0 for columns in filled]


@dataclass
class Tape:
    """The tensors of one stage, in the order in which they were fed. Recording costs a copy, replaying nothing."""

    tensors: list[Batch]
    on: bool = False

    def attach(self, predictor: Predictor) -> None:
        """Note what the predictor is fed from now on."""
        run = predictor.run

        def recorded(batch: Batch) -> Answers:
            if self.on:
                self.tensors.append(_copied(batch))
            return run(batch)

        predictor.run = recorded  # type: ignore[method-assign]  # an instance's own, over its class's


def _copied(batch: Batch) -> Batch:
    """A batch where it lies. On a card it is made on a stream of its own, which the copy must wait for."""
    if isinstance(batch, np.ndarray):
        return batch.copy()
    batch.device.synchronize()
    copy = batch.copy()
    batch.device.synchronize()
    return copy


def padding(batches: Sequence[Batch]) -> dict[str, float]:
    """The parts of all pixels of the recogniser's tensors that hold no line: beside one, and in slots without one."""
    pixels, beside, empty, lines = 0, 0, 0, 0
    for batch in batches:
        for width in line_widths(batch):
            pixels += batch.shape[3]
            beside += batch.shape[3] - width if width else 0
            empty += 0 if width else batch.shape[3]
            lines += bool(width)
    return {"width": beside / max(1, pixels), "empty": empty / max(1, pixels), "lines": lines}


def paddlex_padding(pages: Sequence[Sequence[int]]) -> float:
    """The part of padded pixels if PaddleX batched each page's lines, given in columns."""
    pixels, filled = 0, 0
    for widths in pages:
        for members, columns in paddlex_batches(list(widths)):
            pixels += len(members) * columns
            filled += sum(widths[n] for n in members)
    return 1 - filled / max(1, pixels)


class Recorder(Batched):
    """The engine in this process with a tape at each predictor. Its methods are asked for in this order, one at a time:

    `alone`     a JSON list of paths: reads page by page; gives the lines' texts of each
    `together`  the same: reads them all at once, as a worker under load does
    `replay`    seconds: feeds the predictors what `together` fed them; gives pages a second
    `lines`     nothing: how lines filled the recogniser's tensors
    """

    def __init__(self) -> None:
        super().__init__()
        self._pages_at_a_time, self.width = self.width, 1
        self._pages = 0
        self._alone_widths: list[list[int]] = []
        self._tapes = {kind: Tape([]) for kind in STAGES}
        #: A thread for each of the engine's runners, with a predictor that replays: what a runtime records on a card
        #: belongs to the thread that recorded it.
        self._runners: dict[Stage, list[ThreadPoolExecutor]] = {}
        self._replaying: dict[ThreadPoolExecutor, Predictor] = {}
        for stage in self.engine.stages:
            if (kind := Stage(stage.batcher.name)) in self._tapes:
                self._runners[kind] = [ThreadPoolExecutor(1) for _ in stage.predictors]
                for predictor in stage.predictors:
                    self._tapes[kind].attach(predictor)

    def methods(self) -> Mapping[str, Callable[[str], Any]]:
        return {"alone": self._alone, "together": self._together, "replay": self._replay, "lines": self._lines}

    def _alone(self, argument: str) -> list[list[str]]:
        texts, tape = [], self._tapes[Stage.RECOGNISER]
        for path in json.loads(argument):
            tape.on = True
            texts.append(self._texts(path))
            tape.on = False
            self._alone_widths.append([width for batch in tape.tensors for width in line_widths(batch) if width])
            tape.tensors.clear()
        return texts

    def _together(self, argument: str) -> list[list[str]]:
        paths = json.loads(argument)
        self._pages = len(paths)
        for tape in self._tapes.values():
            tape.on = True
        with ThreadPoolExecutor(self._pages_at_a_time) as pool:
            texts = list(pool.map(self._texts, paths))
        for tape in self._tapes.values():
            tape.on = False
        return texts

    def _texts(self, path: str) -> list[str]:
        return [line.text for line in self.read_page(path).lines]

    def _replay(self, argument: str) -> float:
        """Pages a second over whole passes of the tapes, as many as take `argument` seconds."""
        passes, took_s = 1, self._feed(1)
        if took_s < float(argument):
            passes = round(float(argument) / took_s) + 1
            took_s = self._feed(passes)
        return passes * self._pages / took_s

    def _feed(self, passes: int) -> float:
        """Seconds that the predictors take for the tapes, each stage with its own runner threads, side by side."""
        self._make_predictors()
        started = time.perf_counter()
        futures = []
        for kind, runners in self._runners.items():
            left = iter(self._tapes[kind].tensors * passes)  # threads may share a list's iterator
            futures += [runner.submit(_run_all, self._replaying[runner], left) for runner in runners]
        for future in futures:
            future.result()
        return time.perf_counter() - started

    def _make_predictors(self) -> None:
        """Warm predictors of what the engine's are made of, for the shapes on the tapes; once."""
        if self._replaying:
            return
        choice = choose(Settings())
        for kind, runners in self._runners.items():
            shapes = {Shape.of(batch) for batch in self._tapes[kind].tensors}
            for runner in runners:
                self._replaying[runner] = build_predictor(choice.model, kind, shapes, choice.execution)
                runner.submit(self._replaying[runner].warm_up).result()

    def _lines(self, argument: str) -> dict[str, Any]:
        tensors = self._tapes[Stage.RECOGNISER].tensors
        shapes = Counter("x".join(map(str, (batch.shape[0], LINE_HEIGHT, batch.shape[3]))) for batch in tensors)
        return {
            **padding(tensors),
            "paddlex": paddlex_padding(self._alone_widths),
            "batches": len(tensors),
            "shapes": len(shapes),
            "runners": {kind.value: len(runners) for kind, runners in self._runners.items()},
        }


def _run_all(predictor: Predictor, left: Iterator[Batch]) -> None:
    for batch in left:
        predictor.run(batch)
