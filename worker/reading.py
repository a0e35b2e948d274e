"""Reading order: one page's lines in, the page's text out.

Lines beside each other form one row, as an item and its price on a receipt. Columns of prose are read one after
another; what tells them from a price list is that both sides of the gutter hold long lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producer.job import Line, Point
from worker.detection import Quads
from worker.recognition import TALL

#: A column holds at least this many long lines, and they are at least this part of its lines: a table or a list may
#: stand between paragraphs.
COLUMN_LINES, COLUMN_LINES_PART = 3, 1 / 3
#: A long line is at least this many times as wide as high (about 16 letters) ...
COLUMN_LINE_ASPECT = 8
#: ... and at least this part of the column's width, which may still hold two or three columns.
COLUMN_FILL = 0.3
#: Narrowest gutter between two columns, in line heights. Detected boxes are a little larger than the text.
GUTTER = 0.3
#: Lines are in one row if their middles are no farther apart than this part of the lower one's height.
ROW_SHIFT = 0.5
#: Two lines that share this part of the narrower one's width are above each other, never beside.
STACKED = 0.5


def arrange(lines: Sequence[Line]) -> tuple[tuple[Line, ...], str]:
    """The lines in reading order, and the page's text: one row a line, its parts joined by a space."""
    quads = np.array([line.quad for line in lines], np.float32).reshape(-1, 4, 2)
    upside_down = sum(line.angle == 180 for line in lines) * 2 > len(lines)
    rows = [[lines[n] for n in row] for row in order(quads, upside_down=upside_down)]
    text = "\n".join(" ".join(line.text for line in row) for row in rows)
    return tuple(line for row in rows for line in row), text


def as_quad(corners: Quads) -> tuple[Point, Point, Point, Point]:
    """`float32[4, 2]` as plain numbers, rounded to a tenth of a pixel."""
    a, b, c, d = ((round(float(x), 1), round(float(y), 1)) for x, y in corners)
    return a, b, c, d


def order(quads: Quads, *, upside_down: bool = False) -> list[list[int]]:
    """The rows of a page with the lines `float32[N, 4, 2]`, first to last: indices of lines, each row in its order.

    A slanted page is read along its slant, a page of tall quads from right to left with each line downwards;
    `upside_down` turns the page by 180 degrees. Every line is in exactly one row.
    """
    if not len(quads):
        return []
    return list(_read(_Boxes.of(quads, upside_down), np.arange(len(quads))))


@dataclass(frozen=True)
class _Boxes:
    """Upright boxes of the lines, once the page is turned so that its text runs to the right: `float64[N]` each."""

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    middle: NDArray[np.float64]
    height: NDArray[np.float64]

    @classmethod
    def of(cls, quads: Quads, upside_down: bool) -> _Boxes:
        points = quads.astype(np.float64)
        across, down = points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]
        widths, heights = np.hypot(*across.T), np.hypot(*down.T)
        tall = np.count_nonzero(heights >= TALL * widths) * 2 > len(points)
        along, lengths = (down, heights) if tall else (across, widths)
        # The longer half of the lines: the angle of a short one is noise.
        long = lengths >= np.median(lengths)
        angle = np.median(np.arctan2(along[long, 1], along[long, 0])) + np.pi * upside_down
        cosine, sine = np.cos(angle), np.sin(angle)
        x = points[..., 0] * cosine + points[..., 1] * sine
        y = points[..., 1] * cosine - points[..., 0] * sine
        top, bottom = y.min(axis=1), y.max(axis=1)
        return cls(x.min(axis=1), x.max(axis=1), (top + bottom) / 2, np.maximum(bottom - top, 1e-3))


def _read(boxes: _Boxes, members: NDArray[np.intp]) -> Iterator[list[int]]:
    """The rows of some of a page's lines: column after column where there are columns."""
    gutter = _find_gutter(boxes, members)
    if gutter is None:
        yield from _rows(boxes, members)
        return
    left, right, across = _sides(boxes, members, gutter)
    # Lines that cross the gutter, such as headings, part the page into bands; each is read before the next begins.
    edges = np.unique(boxes.middle[across])
    for band in range(len(edges) + 1):
        both = [side[np.searchsorted(edges, boxes.middle[side], side="right") == band] for side in (left, right)]
        if all(_is_column(boxes, side) for side in both):
            for side in both:
                yield from _read(boxes, side)
        else:
            yield from _rows(boxes, np.concatenate(both))
        if band < len(edges):
            yield from _rows(boxes, across[boxes.middle[across] == edges[band]])


def _sides(
    boxes: _Boxes, members: NDArray[np.intp], gutter: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The members left of the gutter, right of it, and across it."""
    is_left = boxes.right[members] <= gutter
    is_right = ~is_left & (boxes.left[members] >= gutter)
    return members[is_left], members[is_right], members[~is_left & ~is_right]


def _find_gutter(boxes: _Boxes, members: NDArray[np.intp]) -> float | None:
    """The x with a column on each side that the fewest lines cross, or None."""
    found: tuple[int, float] | None = None
    height = float(np.median(boxes.height[members]))
    for x in np.unique(boxes.left[members]):
        gutter = float(x) - GUTTER * height / 2
        left, right, across = _sides(boxes, members, gutter)
        clear = not len(left) or x - boxes.right[left].max() >= GUTTER * height
        crossed = len(across)
        better = crossed < min(len(left), len(right)) and (found is None or crossed < found[0])
        if clear and better and _is_column(boxes, left) and _is_column(boxes, right):
            found = crossed, gutter
    return found[1] if found else None


def _is_column(boxes: _Boxes, members: NDArray[np.intp]) -> bool:
    if len(members) < COLUMN_LINES:
        return False
    widths = boxes.right[members] - boxes.left[members]
    extent = boxes.right[members].max() - boxes.left[members].min()
    height = np.median(boxes.height[members])
    long = np.count_nonzero(widths >= max(COLUMN_LINE_ASPECT * height, COLUMN_FILL * extent))
    return bool(long >= max(COLUMN_LINES, COLUMN_LINES_PART * len(members)))


def _rows(boxes: _Boxes, members: NDArray[np.intp]) -> list[list[int]]:
    """Lines beside each other, top to bottom."""
    rows: list[list[int]] = []
    for n in members[np.argsort(boxes.middle[members], kind="stable")].tolist():
        if rows and _continues(boxes, rows[-1], n):
            rows[-1].append(n)
        else:
            rows.append([n])
    return [sorted(row, key=lambda n: float(boxes.left[n])) for row in rows]


def _continues(boxes: _Boxes, row: list[int], line: int) -> bool:
    height = min(boxes.height[line], np.median(boxes.height[row]))
    if boxes.middle[line] - boxes.middle[row].mean() > ROW_SHIFT * height:
        return False
    shared = np.minimum(boxes.right[row], boxes.right[line]) - np.maximum(boxes.left[row], boxes.left[line])
    narrower = np.minimum(boxes.right[row] - boxes.left[row], boxes.right[line] - boxes.left[line])
    return not bool((shared > STACKED * narrower).any())
