"""Text-line orientation: which lines stand upside down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worker.predictors import Predictor, Shape
from worker.recognition import LINE_HEIGHT, LineInput, cuts
from worker.shapes import ShapeList
from worker.tensors import Bucket, portions

#: The one input size of PP-OCR's mobile v2 classifier.
BUCKET: Bucket = (LINE_HEIGHT, 192)
#: Of a longer line the middle part of this width is looked at: squeezed more, upright letters look turned more often.
PART_WIDTH = 288
#: A line is turned only if the classifier is this sure, as in PP-OCR: most lines stand upright.
TURN_THRESHOLD = 0.9
#: Width in pixels from which a line's own look decides: about five letters.
LONG_LINE = 120


class Orientation:
    """Tells which lines stand upside down. One instance serves every thread."""

    def __init__(self, shapes: ShapeList) -> None:
        self._batches = tuple(sorted(shapes.recogniser_batches))
        self.shapes = frozenset(Shape(batch, *BUCKET) for batch in self._batches)

    def max_batch(self, bucket: Bucket) -> int:
        return self._batches[-1]

    def prepare(self, lines: Sequence[LineInput]) -> list[LineInput]:
        """The same lines, or the middle of longer ones, in the classifier's only bucket."""
        return [_middle(line) for line in lines]

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[LineInput]) -> list[bool]:
        """For each line, whether it stands upside down: `LineInput.turned` sets it right."""
        lines = cuts(items)
        turned: list[bool] = []
        for slots in portions(self._batches, len(items)):
            part = lines[len(turned) : len(turned) + slots]
            scores = predictor.run(predictor.kernels.cut(part, slots, bucket))[: len(part), 1]
            turned += (scores > TURN_THRESHOLD).tolist()
        return turned


def settle(lines: Sequence[LineInput], turned: Sequence[bool]) -> list[bool]:
    """What the classifier said of one page's lines, with the short ones following most of the long ones.

    A `6`, a `3` or an `S` alone looks no better one way up than the other.
    """
    long = [line.columns >= LONG_LINE for line in lines]
    votes = [turn for turn, decides in zip(turned, long, strict=True) if decides]
    if not votes:
        return list(turned)
    page_turned = 2 * sum(votes) > len(votes)
    return [turn if decides else page_turned for turn, decides in zip(turned, long, strict=True)]


def _middle(line: LineInput) -> LineInput:
    if line.columns <= BUCKET[1]:
        return replace(line, bucket=BUCKET)
    start = max(0, line.columns - PART_WIDTH) / 2 / line.columns
    top_left, top_right, bottom_right, bottom_left = line.quad
    along_top, along_bottom = start * (top_right - top_left), start * (bottom_right - bottom_left)
    part = (top_left + along_top, top_right - along_top, bottom_right - along_bottom, bottom_left + along_bottom)
    return LineInput(line.page, np.stack(part), BUCKET[1], BUCKET)
