"""Text-line orientation: which lines stand upside down."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from worker.predictors import Predictor, Shape
from worker.recognition import LINE_HEIGHT, LineInput
from worker.shapes import ShapeList
from worker.tensors import Bucket, Pixels, assemble, batch_size

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
        return [LineInput(_middle(line.pixels), BUCKET) for line in lines]

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[LineInput]) -> list[bool]:
        """For each line, whether it stands upside down: `LineInput.turned` sets it right."""
        batch = assemble([item.pixels for item in items], batch_size(self._batches, len(items)), bucket)
        scores = predictor.run(batch)[: len(items), 1]
        return [bool(turned) for turned in scores > TURN_THRESHOLD]


def settle(lines: Sequence[LineInput], turned: Sequence[bool]) -> list[bool]:
    """What the classifier said of one page's lines, with the short ones following most of the long ones.

    A `6`, a `3` or an `S` alone looks no better one way up than the other.
    """
    long = [line.pixels.shape[1] >= LONG_LINE for line in lines]
    votes = [turn for turn, decides in zip(turned, long, strict=True) if decides]
    if not votes:
        return list(turned)
    page_turned = 2 * sum(votes) > len(votes)
    return [turn if decides else page_turned for turn, decides in zip(turned, long, strict=True)]


def _middle(pixels: Pixels) -> Pixels:
    width = pixels.shape[1]
    if width <= BUCKET[1]:
        return pixels
    start = max(0, width - PART_WIDTH) // 2
    part = pixels[:, start : start + PART_WIDTH]
    return np.asarray(cv2.resize(part, BUCKET[::-1], interpolation=cv2.INTER_AREA), np.uint8)
