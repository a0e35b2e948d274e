"""The recogniser: the crops of text lines in, their text out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from producer.errors import Internal
from worker.detection import Quads
from worker.models import Model
from worker.predictors import Predictor, Shape, Tensor
from worker.shapes import ShapeList
from worker.tensors import Bucket, Pixels, assemble, batch_size

#: Height in pixels of every crop, fixed by PP-OCR's recognisers.
LINE_HEIGHT = 48
#: A quad this much taller than wide holds text that runs downwards, as PP-OCR has it.
TALL = 1.5

#: OpenCV warps no image with a side of 32,767 pixels or more.
LONGEST_SIDE = 32_000


@dataclass(frozen=True)
class LineInput:
    """One line's crop, `uint8[48, w, 3]`, and the bucket that w alone decides."""

    pixels: Pixels
    bucket: Bucket

    def turned(self) -> LineInput:
        """The line rotated by 180 degrees."""
        return replace(self, pixels=np.ascontiguousarray(self.pixels[::-1, ::-1]))


@dataclass(frozen=True)
class LineText:
    """What a line says, and the mean confidence of its characters (0 to 1; 0 for no text)."""

    text: str
    score: float


class Recogniser:
    """Reads text lines. One instance serves every thread."""

    def __init__(self, model: Model, shapes: ShapeList) -> None:
        self._characters = np.array(model.characters)
        self._widths = tuple(sorted(shapes.recogniser_widths))
        self._batches = tuple(sorted(shapes.recogniser_batches))
        self.shapes = frozenset(Shape(b, LINE_HEIGHT, width) for width in self._widths for b in self._batches)

    def max_batch(self, bucket: Bucket) -> int:
        return self._batches[-1]

    def prepare(self, page: Pixels, quads: Quads) -> list[LineInput]:
        """Cut each quad of `float32[N, 4, 2]` out of `uint8[H, W, 3]` and set it upright, 48 pixels high."""
        lines = []
        for quad in quads:
            pixels = crop(page, quad, self._widths[-1])
            width = self._widths[bisect_left(self._widths, pixels.shape[1])]
            lines.append(LineInput(pixels, (LINE_HEIGHT, width)))
        return lines

    def pixels(self, bucket: Bucket, items: Sequence[LineInput]) -> tuple[int, int]:
        """The pixels of the lines, and those of the tensor that holds them."""
        height, width = bucket
        return sum(item.pixels.shape[1] for item in items) * height, batch_size(
            self._batches, len(items)
        ) * height * width

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[LineInput]) -> list[LineText]:
        """The text of each line, in the order of the items.

        Raises:
            Internal: the model has other classes than its list of characters.
        """
        batch = assemble([item.pixels for item in items], batch_size(self._batches, len(items)), bucket)
        scores = predictor.run(batch)[: len(items)]
        if scores.shape[2] != len(self._characters):
            raise Internal(f"The recogniser has {scores.shape[2]} classes for {len(self._characters)} characters.")
        return decode(scores, self._characters)


def crop(page: Pixels, quad: NDArray[np.float32], max_width: int) -> Pixels:
    """The quad as `uint8[48, w, 3]`: w keeps its aspect ratio up to `max_width`; a tall quad is turned to the left."""
    top_left, top_right, bottom_right, bottom_left = quad
    width = max(float(np.linalg.norm(top_right - top_left)), float(np.linalg.norm(bottom_right - bottom_left)), 1.0)
    height = max(float(np.linalg.norm(bottom_left - top_left)), float(np.linalg.norm(bottom_right - top_right)), 1.0)
    if height >= TALL * width:
        quad, width, height = np.roll(quad, -1, axis=0), height, width
    columns = min(max(math.ceil(LINE_HEIGHT * width / height), 1), max_width)
    page, quad = _around(page, quad)
    target = np.array([[0, 0], [columns, 0], [columns, LINE_HEIGHT], [0, LINE_HEIGHT]], np.float32)
    warp = cv2.getPerspectiveTransform(quad, target)
    cut = cv2.warpPerspective(
        page, warp, (columns, LINE_HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.uint8)


def _around(page: Pixels, quad: NDArray[np.float32]) -> tuple[Pixels, NDArray[np.float32]]:
    """The part of the page around a quad, with every n-th pixel only where OpenCV's limit on sides demands it."""
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 1, 0)
    high = np.ceil(quad.max(axis=0)).astype(int) + 2
    step = int((high - low).max()) // LONGEST_SIDE + 1
    part = page[low[1] : high[1] : step, low[0] : high[0] : step]
    return part, ((quad - low) / step).astype(np.float32)


def decode(scores: Tensor, characters: NDArray[np.str_]) -> list[LineText]:
    """Greedy CTC: of `float32[N, T, C]` take the best class of each step, drop repeats, then blanks (class 0).

    Spaces at either end of a line are dropped too: models see them in the margin of a crop.
    """
    best = scores.argmax(axis=2)
    confidence = np.take_along_axis(scores, best[..., None], axis=2)[..., 0]
    kept = best != 0
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    counts = kept.sum(axis=1)
    means = (confidence * kept).sum(axis=1) / np.maximum(counts, 1)
    ends = np.cumsum(counts)
    text = "".join(characters[best[kept]].tolist())
    return [
        LineText(text[end - count : end].strip(), float(mean))
        for end, count, mean in zip(ends, counts, means, strict=True)
    ]
