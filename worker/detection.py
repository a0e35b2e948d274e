"""The detector: a page in, the quads of its text lines out.

Post-processing follows Differentiable Binarization (Liao et al., arXiv:1911.08947) with PP-OCR's thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from producer.job import ReadOptions
from worker.predictors import Answers, Predictor, Shape
from worker.shapes import ShapeList
from worker.tensors import Bucket, Page, Shrunk, portions

#: Probabilities travel as whole numbers up to this.
CERTAIN = 255
#: The thresholds of a job that names none. A box is kept at a lower probability than PP-OCR's 0.5 to 0.6: faint print
#: is read more often, and what is not text falls to the recogniser's own score.
USUAL = ReadOptions()
#: Most boxes of one page, so that noise cannot occupy the recogniser for ever.
MAX_BOXES = 1000
#: Shortest side of a box in pixels of the map, before and after it grows.
MIN_SIDE, MIN_GROWN_SIDE = 3, 5
#: A box's mean is taken over so many points along its first side and its second, evenly spread inside it. On receipts
#: this keeps the same boxes as the mean over every pixel does; asking OpenCV box by box would cost more than all else.
GRID = (32, 16)
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
#: `uint8[h, w]`: the probability of text at each pixel of a shrunk page, times 255.
TextMap = Answers


class Detector:
    """Finds text lines. One instance serves every thread."""

    def __init__(self, shapes: ShapeList) -> None:
        self._buckets = tuple(sorted(shapes.detector_sizes, key=lambda size: size[0] * size[1]))
        self._batches = tuple(sorted(shapes.detector_batches))
        self.shapes = frozenset(Shape(batch, *size) for size in self._buckets for batch in self._batches)

    def max_batch(self, bucket: Bucket) -> int:
        return self._batches[-1]

    def prepare(self, page: Page, options: ReadOptions = USUAL) -> tuple[Shrunk, Bucket]:
        """How a page is scaled into one of the buckets, keeping its aspect ratio, and which."""
        height, width = page.shape[:2]
        bucket, scale = place(self._buckets, height, width, options)
        return Shrunk(page, max(1, round(height * scale)), max(1, round(width * scale))), bucket

    def run(self, predictor: Predictor, bucket: Bucket, items: Sequence[Shrunk]) -> list[TextMap]:
        """The text map of each item, cut to its own size."""
        found: list[TextMap] = []
        for slots in portions(self._batches, len(items)):
            part = items[len(found) : len(found) + slots]
            maps = predictor.run(predictor.kernels.shrink(part, slots, bucket))
            found += [text[: item.height, : item.width] for text, item in zip(maps, part, strict=False)]
        return found

    def finish(self, text: TextMap, item: Shrunk, options: ReadOptions = USUAL) -> Quads:
        """The quads of the page's text lines: `float32[N, 4, 2]`, (x, y) in pixels of the page.

        Corners run clockwise from the top left; the edges lie at most 45 degrees off the page's, so a line that runs
        upwards or downwards gives a tall quad.
        """
        height, width = item.page.shape[:2]
        scale = np.array([width / text.shape[1], height / text.shape[0]], np.float32)
        quads = _boxes(text, options) * scale
        np.clip(quads, 0, np.array([width - 1, height - 1], np.float32), out=quads)
        sides = np.linalg.norm(quads[:, [1, 3]] - quads[:, :1], axis=2)
        return np.ascontiguousarray(quads[(sides > MIN_PAGE_SIDE).all(axis=1)])


def wanted_area(height: int, width: int) -> float:
    """The pixels that a page of this size needs to be shown with."""
    pixels = height * width
    return min(max(pixels * DENSE_AREA, LEAST_AREA), MOST_AREA, pixels * 0.95 * MAX_SCALE**2)


def place(buckets: Sequence[Bucket], height: int, width: int, options: ReadOptions = USUAL) -> tuple[Bucket, float]:
    """A page's bucket, and its scale there; `buckets` ascend by area.

    The smallest bucket that gives the page the area it needs, or else the one that gives it most. A side that the
    options ask for is kept to as far as the buckets reach.
    """
    wanted, most = wanted_area(height, width), MAX_SCALE
    if options.detector_side_px and options.detector_side == "max":
        most = min(most, options.detector_side_px / max(height, width))
    elif options.detector_side_px:
        least = options.detector_side_px / min(height, width)
        wanted, most = max(wanted, height * width * least**2), max(most, least)
    scales = [min(rows / height, columns / width, most) for rows, columns in buckets]
    largest = max(scales)
    return next(
        (bucket, scale)
        for bucket, scale in zip(buckets, scales, strict=True)
        if height * width * scale**2 >= wanted or scale == largest
    )


def _points_inside() -> NDArray[np.float32]:
    """`float32[3, N]`: the points of the grid as 1 and their way from the centre in sides, -0.5 to 0.5."""
    along, across = ((np.arange(points) + 0.5) / points - 0.5 for points in GRID)
    u, v = np.meshgrid(along, across)
    return np.stack((np.ones(u.size), u.ravel(), v.ravel())).astype(np.float32)


_INSIDE = _points_inside()
_TWO_BY_TWO = np.ones((2, 2), np.uint8)


def _boxes(probabilities: TextMap, options: ReadOptions) -> Quads:
    """Rotated rectangles around the map's text, as quads in its own pixels."""
    _, text = cv2.threshold(probabilities, options.detector_threshold * CERTAIN, 1, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(cv2.dilate(text, _TWO_BY_TWO), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = np.array([_flat(cv2.minAreaRect(contour)) for contour in contours[:MAX_BOXES]], np.float32)
    rectangles = rectangles.reshape(-1, 5)
    rectangles = rectangles[rectangles[:, 2:4].min(axis=1, initial=np.inf) >= MIN_SIDE]
    rectangles = rectangles[_means_inside(probabilities, rectangles) >= options.detector_box_threshold * CERTAIN]
    sides = rectangles[:, 2:4]
    # A rectangle that grows by the same distance on each side stays a rectangle: no polygon clipping is needed.
    growth = sides.prod(axis=1, keepdims=True) / sides.sum(axis=1, keepdims=True)
    sides += options.detector_unclip_ratio * growth
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


def _means_inside(probabilities: TextMap, rectangles: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean of the map inside each rectangle, 0 to 255."""
    angle = np.deg2rad(rectangles[:, 4])
    # Dilation moved the text's middle by half a pixel, just as far as truncation below moves the points. The sides run
    # through the middles of the outermost pixels.
    centre, along, across = rectangles[:, :2], rectangles[:, 2] + 1, rectangles[:, 3] + 1
    x = np.stack((centre[:, 0], along * np.cos(angle), -across * np.sin(angle)), axis=1) @ _INSIDE
    y = np.stack((centre[:, 1], along * np.sin(angle), across * np.cos(angle)), axis=1) @ _INSIDE
    height, width = probabilities.shape
    pixels = y.astype(np.int32).clip(0, height - 1) * width + x.astype(np.int32).clip(0, width - 1)
    return np.asarray(probabilities.ravel().take(pixels).mean(axis=1), np.float64)
