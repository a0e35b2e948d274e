"""A predictor without a model: it answers at once, and the same input always gets the same answer."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from worker.predictors import Answers, Shape, Stage, check_shape
from worker.tensors import Batch, HostKernels, Kernels, Tensor

#: The classes of the fake recogniser: the blank, what it can write, the space.
CHARACTERS = ("", *string.digits, *string.ascii_letters, " ")

#: Input columns that one step of the recogniser's output stands for, as in PP-OCR's recognisers.
STEP = 8

_GLYPHS = len(CHARACTERS) - 2


def text_map(batch: Tensor) -> Answers:
    """`uint8[N, H, W]`, with one box of text near the top left of each page."""
    size, _, height, width = batch.shape
    maps = np.zeros((size, height, width), np.uint8)
    maps[:, height // 32 : height // 16, width // 32 : width // 4] = 255
    return maps


def characters(batch: Tensor) -> Answers:
    """`float32[N, W / 8, 2]`: every second step a character that its columns of the crop choose."""
    size, _, _, width = batch.shape
    steps = width // STEP
    sums = batch[..., : steps * STEP].reshape(size, -1, steps, STEP).sum((1, 3), dtype=np.float64)
    classes = 1 + np.rint(np.abs(sums) * 127.5).astype(np.int64) % _GLYPHS
    classes[:, 1::2] = 0
    return np.stack((classes, np.ones_like(classes)), axis=2).astype(np.float32)


def upright_scores(batch: Tensor) -> Answers:
    """`float32[N, 2]`: upside down where the right half of a crop is brighter than the left."""
    half = batch.shape[3] // 2
    upside_down = batch[..., half:].sum((1, 2, 3)) > batch[..., :half].sum((1, 2, 3))
    return np.stack((~upside_down, upside_down), axis=1).astype(np.float32)


#: What the fake answers for each stage.
OUTPUTS: Mapping[Stage, Callable[[Tensor], Answers]] = {
    Stage.DETECTOR: text_map,
    Stage.RECOGNISER: characters,
    Stage.ORIENTATION: upright_scores,
}


def class_scores(batch: Tensor) -> Tensor:
    """`float32[N, W / 8, len(CHARACTERS)]`: what `characters` are the best of."""
    return np.eye(len(CHARACTERS), dtype=np.float32)[characters(batch)[..., 0].astype(np.int64)]


#: What a model would answer before `worker.predictors.endings`.
PROBABILITIES: Mapping[Stage, Callable[[Tensor], Tensor]] = {
    Stage.DETECTOR: lambda batch: (text_map(batch)[:, None] / 255).astype(np.float32),
    Stage.RECOGNISER: class_scores,
    Stage.ORIENTATION: upright_scores,
}


class FakePredictor:
    """Answers `output(batch)`; see `Predictor`.

    `before` sees each batch first, in the caller's thread: a test may raise there, or wait for an event.
    """

    runtime = "fake"
    kernels: Kernels = HostKernels()

    def __init__(
        self,
        output: Callable[[Tensor], Answers],
        shapes: Iterable[Shape],
        before: Callable[[Tensor], None] = lambda batch: None,
    ) -> None:
        self.shapes = frozenset(shapes)
        self._output = output
        self._before = before

    def run(self, batch: Batch) -> Answers:
        check_shape(batch, self.shapes)
        self._before(batch)
        return self._output(batch)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def close(self) -> None:
        """Nothing to free."""
