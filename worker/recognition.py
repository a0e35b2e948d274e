"""The recogniser: the crops of text lines in, their text out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from producer.errors import Internal
from worker.detection import Quads
from worker.models import Model
from worker.predictors import Answers, Predictor, Shape
from worker.shapes import ShapeList
from worker.tensors import Bucket, Cut, Page, portions

#: Height in pixels of every crop, fixed by PP-OCR's recognisers.
LINE_HEIGHT = 48
#: A quad this much taller than wide holds text that runs downwards, as PP-OCR has it.
TALL = 1.5
#: Most columns of one batch's tensor: at eight columns a step, 18,710 classes and 2 bytes, 190 MB of class scores.
MOST_COLUMNS = 64 * 640


@dataclass(frozen=True, slots=True)
class LineInput:
    """One line of a page, and the bucket that its width alone decides.

    `quad` is `float32[4, 2]`, clockwise from the corner where the text begins; `columns` is the width of its crop.
    """

    page: Page
    quad: Quads
    columns: int
    bucket: Bucket

    def turned(self) -> LineInput:
        """The line rotated by 180 degrees."""
        return replace(self, quad=np.roll(self.quad, 2, axis=0))


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
        self._batches = {width: batches_of(width, shapes.recogniser_batches) for width in self._widths}
        self.shapes = frozenset(Shape(b, LINE_HEIGHT, width) for width in self._widths for b in self._batches[width])

    def max_batch(self, bucket: Bucket) -> int:
        return self._batches[bucket[1]][-1]

    def prepare(self, page: Page, quads: Quads) -> list[LineInput]:
        """The lines of a page, by their quads `float32[N, 4, 2]`; a tall quad is turned to the left."""
        quads, columns = upright(quads, self._widths[-1])
        return [
            LineInput(page, quad, wide, (LINE_HEIGHT, self._widths[bisect_left(self._widths, wide)]))
            for quad, wide in zip(quads, columns.tolist(), strict=True)
        ]

    def pixels(self, bucket: Bucket, items: Sequence[LineInput]) -> tuple[int, int, int]:
        """The pixels of the lines, those that fill their slots up, and those of slots without a line."""
        height, width = bucket
        lines = sum(item.columns for item in items)
        slots = sum(portions(self._batches[width], len(items)))
        return lines * height, (len(items) * width - lines) * height, (slots - len(items)) * width * height

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[LineInput]) -> list[LineText]:
        """The text of each line, in the order of the items.

        Raises:
            Internal: the model has other classes than its list of characters.
        """
        lines = cuts(items)
        texts: list[LineText] = []
        for slots in portions(self._batches[bucket[1]], len(items)):
            part = lines[len(texts) : len(texts) + slots]
            answers = predictor.run(predictor.kernels.cut(part, slots, bucket))[: len(part)]
            if answers[..., 0].max() >= len(self._characters):
                raise Internal(f"The recogniser has more classes than its {len(self._characters)} characters.")
            texts += decode(answers, self._characters)
        return texts


def batches_of(width: int, batches: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes for one width: long lines go in smaller batches, because their class scores fill the card."""
    return tuple(size for size in sorted(batches) if size == min(batches) or size * width <= MOST_COLUMNS)


def upright(quads: Quads, max_columns: int) -> tuple[Quads, NDArray[np.int64]]:
    """Quads `float32[N, 4, 2]` that begin where their text does, and the widths of their crops, `int64[N]`.

    A quad is clockwise from its top left; a tall one is turned to the left. The crop keeps its aspect ratio, up to
    `max_columns`.
    """
    sides = np.linalg.norm(quads - np.roll(quads, -1, axis=1), axis=2)
    widths = np.maximum(np.maximum(sides[:, 0], sides[:, 2]), 1.0)
    heights = np.maximum(np.maximum(sides[:, 1], sides[:, 3]), 1.0)
    tall = heights >= TALL * widths
    quads = np.where(tall[:, None, None], np.roll(quads, -1, axis=1), quads)
    widths, heights = np.where(tall, heights, widths), np.where(tall, widths, heights)
    columns = np.ceil(LINE_HEIGHT * widths.astype(np.float64) / heights).astype(np.int64)
    return quads, np.clip(columns, 1, max_columns)


def cuts(items: Sequence[LineInput]) -> list[Cut]:
    """How each line is cut out of its page."""
    if not items:
        return []
    warps = unit_warps(np.stack([item.quad for item in items]))
    warps[:, :, 0] /= np.array([item.columns for item in items])[:, None]
    warps[:, :, 1] /= LINE_HEIGHT
    return [Cut(item.page, warp, item.columns) for item, warp in zip(items, warps, strict=True)]


def unit_warps(quads: Quads) -> NDArray[np.float64]:
    """The projections `float64[N, 3, 3]` that take the unit square's corners (0, 0), (1, 0), (1, 1), (0, 1) to quads.

    Solved as by Heckbert, Fundamentals of Texture Mapping and Image Warping (1989), section 2.2.3.
    """
    corners = quads.astype(np.float64)
    first, second, third, fourth = corners[:, 0], corners[:, 1], corners[:, 2], corners[:, 3]
    along, across, rest = second - third, fourth - third, first - second + third - fourth
    determinant = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]
    determinant = np.where(np.abs(determinant) < 1e-12, np.inf, determinant)
    g = (rest[:, 0] * across[:, 1] - rest[:, 1] * across[:, 0]) / determinant
    h = (along[:, 0] * rest[:, 1] - along[:, 1] * rest[:, 0]) / determinant
    warps = np.ones((len(corners), 3, 3))
    warps[:, :2, 0] = second - first + g[:, None] * second
    warps[:, :2, 1] = fourth - first + h[:, None] * fourth
    warps[:, :2, 2] = first
    warps[:, 2, 0], warps[:, 2, 1] = g, h
    return warps


def decode(answers: Answers, characters: NDArray[np.str_]) -> list[LineText]:
    """Greedy CTC: of `float32[N, T, 2]`, class and probability of each step, drop repeats, then blanks (class 0).

    Spaces at either end of a line are dropped too: models see them in the margin of a crop.
    """
    best, confidence = answers[..., 0].astype(np.int64), answers[..., 1]
    kept = best != 0
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    counts = kept.sum(axis=1)
    means = (confidence * kept).sum(axis=1) / np.maximum(counts, 1)
    ends = np.cumsum(counts)
    text = "".join(characters[best[kept]].tolist())
    return [
        LineText(text[end - count : end].strip(), mean)
        for end, count, mean in zip(ends.tolist(), counts.tolist(), means.tolist(), strict=True)
    ]
