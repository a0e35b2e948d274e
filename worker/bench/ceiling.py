"""What the predictors could do if they never waited: the tensors that the engine fed them, replayed and nothing else.

The tensors also tell how the recogniser's batches were filled: a normalised pixel is never 0, padding always is.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.bench.baseline import Batched, paddlex_batches
from worker.predictors import Predictor, Tensor
from worker.recognition import LINE_HEIGHT

#: The stages that are recorded: those that every page passes.
STAGES = ("detector", "recogniser")


def line_widths(batch: Tensor) -> list[int]:
    """The columns that each slot's line fills; 0 for an empty slot."""
    filled = (batch != 0).any(axis=(1, 2))
    width = filled.shape[1]
    return [int(width - columns[::-1].argmax()) if columns.any() else 0 for columns in filled]


@dataclass
class Tape:
    """The tensors of one stage, in the order in which they were fed. Recording costs a copy, replaying nothing."""

    tensors: list[Tensor]
    on: bool = False

    def attach(self, predictor: Predictor) -> None:
        """Note what the predictor is fed from now on."""
        run = predictor.run

        def recorded(batch: Tensor) -> Tensor:
            if self.on:
                self.tensors.append(np.array(batch))
            return run(batch)

        predictor.run = recorded  # type: ignore[method-assign]  # an instance's own, over its class's


def padding(batches: Sequence[Tensor]) -> dict[str, float]:
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
        self._tapes = {name: Tape([]) for name in STAGES}
        self._predictors: dict[str, Sequence[Predictor]] = {}
        for stage in self.engine.stages:
            if stage.batcher.name in self._tapes:
                self._predictors[stage.batcher.name] = stage._predictors
                for predictor in stage._predictors:
                    self._tapes[stage.batcher.name].attach(predictor)

    def methods(self) -> Mapping[str, Callable[[str], Any]]:
        return {"alone": self._alone, "together": self._together, "replay": self._replay, "lines": self._lines}

    def _alone(self, argument: str) -> list[list[str]]:
        texts, tape = [], self._tapes["recogniser"]
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
        started = time.perf_counter()
        threads = []
        for name, predictors in self._predictors.items():
            left = iter(self._tapes[name].tensors * passes)  # threads may share a list's iterator
            threads += [threading.Thread(target=_run_all, args=(predictor, left)) for predictor in predictors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _lines(self, argument: str) -> dict[str, Any]:
        tensors = self._tapes["recogniser"].tensors
        shapes = Counter("x".join(map(str, (batch.shape[0], LINE_HEIGHT, batch.shape[3]))) for batch in tensors)
        return {
            **padding(tensors),
            "paddlex": paddlex_padding(self._alone_widths),
            "batches": len(tensors),
            "shapes": len(shapes),
            "runners": {name: len(predictors) for name, predictors in self._predictors.items()},
        }


def _run_all(predictor: Predictor, left: Iterator[Tensor]) -> None:
    for batch in left:
        predictor.run(batch)
