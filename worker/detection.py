"""The detector: a page in, the quads of its text lines out.

Post-processing follows Differentiable Binarization (Liao et al., arXiv:1911.08947) with PP-OCR's thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.predictors import Predictor, Shape, Tensor
from worker.shapes import ShapeList
from worker.tensors import Bucket, Pixels, assemble, batch_size

#: A pixel of the map belongs to text above this probability.
PIXEL_THRESHOLD = 0.3
#: A box is kept if its pixels' mean probability reaches this. Lower than PP-OCR's 0.5 to 0.6: faint print is read more
#: often, and what is not text falls to the recogniser's own score.
BOX_THRESHOLD = 0.4
#: The detector sees lines shrunk; they grow again by area x ratio / perimeter on each side.
UNCLIP_RATIO = 1.6
#: Most boxes of one page, so that noise cannot occupy the recogniser for ever.
MAX_BOXES = 1000
#: Shortest side of a box in pixels of the map, before and after it grows.
MIN_SIDE, MIN_GROWN_SIDE = 3, 5
#: Shortest side of a quad in pixels of the page.
MIN_PAGE_SIDE = 3
#: Small pages are enlarged up to this; beyond it they only cost more.
MAX_SCALE = 1.5
#: Least and most pixels that a page needs to be shown with. On receipts and on A4 pages at 150 dpi no more lines were
#: found, and none read better, at four times the least.
LEAST_AREA, MOST_AREA = 480_000, 900_000
#: In between, the part of its own pixels that a page needs: a large scan may hold smaller print.
DENSE_AREA = 0.1

Quads = NDArray[np.float32]


@dataclass(frozen=True)
class DetectorInput:
    """One page, scaled to fit its bucket. The size of the page itself is in pixels."""

    pixels: Pixels
    page_height: int
    page_width: int


class Detector:
    """Finds text lines. One instance serves every thread."""

    def __init__(self, shapes: ShapeList) -> None:
        self._buckets = tuple(sorted(shapes.detector_sizes, key=lambda size: size[0] * size[1]))
        self._batches = tuple(sorted(shapes.detector_batches))
        self.shapes = frozenset(Shape(batch, *size) for size in self._buckets for batch in self._batches)

    def max_batch(self, bucket: Bucket) -> int:
        return self._batches[-1]

    def prepare(self, page: Pixels) -> tuple[DetectorInput, Bucket]:
        """Scale `uint8[H, W, 3]` (RGB) into one of the buckets, keeping its aspect ratio."""
        height, width = page.shape[:2]
        bucket, scale = place(self._buckets, height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = page if size == (width, height) else cv2.resize(page, size, interpolation=interpolation)
        return DetectorInput(np.asarray(scaled, np.uint8), height, width), bucket

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[DetectorInput]) -> list[Tensor]:
        """One probability map `float32[h, w]` for each item, cut to the item's own size."""
        batch = assemble([item.pixels for item in items], batch_size(self._batches, len(items)), bucket)
        maps = predictor.run(batch)
        return [maps[n, 0, : item.pixels.shape[0], : item.pixels.shape[1]] for n, item in enumerate(items)]

    def finish(self, probabilities: Tensor, item: DetectorInput) -> Quads:
        """The quads of the page's text lines: `float32[N, 4, 2]`, (x, y) in pixels of the page.

        Corners run clockwise from the top left; the edges lie at most 45 degrees off the page's, so a line that runs
        upwards or downwards gives a tall quad.
        """
        scale = np.array(
            [item.page_width / probabilities.shape[1], item.page_height / probabilities.shape[0]], np.float32
        )
        quads = _boxes(probabilities) * scale
        np.clip(quads, 0, np.array([item.page_width - 1, item.page_height - 1], np.float32), out=quads)
        sides = np.linalg.norm(quads[:, [1, 3]] - quads[:, :1], axis=2)
        return np.ascontiguousarray(quads[(sides > MIN_PAGE_SIDE).all(axis=1)])


def wanted_area(height: int, width: int) -> float:
    """The pixels that a page of this size needs to be shown with."""
    pixels = height * width
    return min(max(pixels * DENSE_AREA, LEAST_AREA), MOST_AREA, pixels * 0.95 * MAX_SCALE**2)


def place(buckets: Sequence[Bucket], height: int, width: int) -> tuple[Bucket, float]:
    """A page's bucket, and its scale there; `buckets` ascend by area.

    The smallest bucket that gives the page the area it needs, or else the one that gives it most.
    """
    wanted = wanted_area(height, width)
    scales = [min(rows / height, columns / width, MAX_SCALE) for rows, columns in buckets]
    largest = max(scales)
    return next(
        (bucket, scale)
        for bucket, scale in zip(buckets, scales, strict=True)
        if height * width * scale**2 >= wanted or scale == largest
    )


def _boxes(probabilities: Tensor) -> Quads:
    """Rotated rectangles around the map's text, as quads in its own pixels."""
    text = cv2.dilate((probabilities > PIXEL_THRESHOLD).view(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = np.array([_flat(cv2.minAreaRect(contour)) for contour in contours[:MAX_BOXES]], np.float32)
    rectangles = rectangles.reshape(-1, 5)
    rectangles = rectangles[rectangles[:, 2:4].min(axis=1, initial=np.inf) >= MIN_SIDE]
    scores = np.array([_mean_inside(probabilities, quad) for quad in _corners(rectangles)])
    rectangles = rectangles[scores >= BOX_THRESHOLD]
    sides = rectangles[:, 2:4]
    # A rectangle that grows by the same distance on each side stays a rectangle: no polygon clipping is needed.
    sides += UNCLIP_RATIO * sides.prod(axis=1, keepdims=True) / sides.sum(axis=1, keepdims=True)
    return _corners(rectangles[sides.min(axis=1, initial=np.inf) >= MIN_GROWN_SIDE])


def _flat(rectangle: tuple[Sequence[float], Sequence[float], float]) -> tuple[float, ...]:
    centre, sides, angle = rectangle
    return (*centre, *sides, angle)


def _corners(rectangles: NDArray[np.float32]) -> Quads:
    """Corners, clockwise from the top left, of rectangles given as rows of centre x, y, sides and degrees."""
    centre, sides, angle = rectangles[:, :2], rectangles[:, 2:4], np.deg2rad(rectangles[:, 4])
    along = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1)
    steep = (np.abs(along[:, 0]) < np.abs(along[:, 1]))[:, None]
    right = np.where(steep, across, along) * np.where(steep, sides[:, 1:], sides[:, :1]) / 2
    down = np.where(steep, along, across) * np.where(steep, sides[:, :1], sides[:, 1:]) / 2
    right *= np.where(right[:, :1] < 0, -1, 1)
    down *= np.where(down[:, 1:] < 0, -1, 1)
    corners = (centre - right - down, centre + right - down, centre + right + down, centre - right + down)
    return np.stack(corners, axis=1).astype(np.float32)


def _mean_inside(probabilities: Tensor, quad: NDArray[np.float32]) -> float:
    """The mean of the map inside a quad."""
    limit = np.array(probabilities.shape[::-1]) - 1
    low = np.clip(np.floor(quad.min(axis=0)).astype(int), 0, limit)
    high = np.clip(np.ceil(quad.max(axis=0)).astype(int), 0, limit) + 1
    mask = np.zeros((high - low)[::-1], np.uint8)
    cv2.fillPoly(mask, [(quad - low).astype(np.int32)], (1,))
    return cv2.mean(probabilities[low[1] : high[1], low[0] : high[0]], mask)[0]
