"""Reading order: one page's lines in, the page's text out.

Lines beside each other form one row, as an item and its price on a receipt. Columns of prose are read one after
another; what tells them from a price list is that both sides of the gutter hold long lines.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from producer.job import Line, Quad
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


def as_quads(quads: Quads) -> list[Quad]:
    """`float32[N, 4, 2]` as plain numbers, rounded to a tenth of a pixel."""
    return [((*a,), (*b,), (*c,), (*d,)) for a, b, c, d in np.round(quads.astype(np.float64), 1).tolist()]


def order(quads: Quads, *, upside_down: bool = False) -> list[list[int]]:
    """The rows of a page with the lines `float32[N, 4, 2]`, first to last: indices of lines, each row in its order.

    A slanted page is read along its slant, a page of tall quads from right to left with each line downwards;
    `upside_down` turns the page by 180 degrees. Every line is in exactly one row.
    """
    if not len(quads):
        return []
    return list(_read(_Boxes.of(quads, upside_down), list(range(len(quads)))))


@dataclass(frozen=True)
class _Boxes:
    """Upright boxes of the lines, once the page is turned so that its text runs to the right.

    Plain numbers: on the few dozen lines of a page, each small numpy call would cost more than the loop it replaces.
    """

    left: list[float]
    right: list[float]
    middle: list[float]
    height: list[float]

    @classmethod
    def of(cls, quads: Quads, upside_down: bool) -> _Boxes:
        points = quads.astype(np.float64)
        across, down = points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]
        widths, heights = np.hypot(*across.T), np.hypot(*down.T)
        tall = np.count_nonzero(heights >= TALL * widths) * 2 > len(points)
        along, lengths = (down, heights) if tall else (across, widths)
        # The longer half of the lines: the angle of a short one is noise.
        long = lengths >= median(lengths.tolist())
        angle = median(np.arctan2(along[long, 1], along[long, 0]).tolist()) + np.pi * upside_down
        cosine, sine = np.cos(angle), np.sin(angle)
        x = points[..., 0] * cosine + points[..., 1] * sine
        y = points[..., 1] * cosine - points[..., 0] * sine
        top, bottom = y.min(axis=1), y.max(axis=1)
        middle, height = (top + bottom) / 2, np.maximum(bottom - top, 1e-3)
        return cls(x.min(axis=1).tolist(), x.max(axis=1).tolist(), middle.tolist(), height.tolist())


def _read(boxes: _Boxes, members: list[int]) -> Iterator[list[int]]:
    """The rows of some of a page's lines: column after column where there are columns."""
    gutter = _find_gutter(boxes, members)
    if gutter is None:
        yield from _rows(boxes, members)
        return
    left, right, across = _sides(boxes, members, gutter)
    # Lines that cross the gutter, such as headings, part the page into bands; each is read before the next begins.
    edges = sorted({boxes.middle[n] for n in across})
    for band in range(len(edges) + 1):
        both = [[n for n in side if bisect_right(edges, boxes.middle[n]) == band] for side in (left, right)]
        if all(_is_column(boxes, side) for side in both):
            for side in both:
                yield from _read(boxes, side)
        else:
            yield from _rows(boxes, both[0] + both[1])
        if band < len(edges):
            yield from _rows(boxes, [n for n in across if boxes.middle[n] == edges[band]])


def _sides(boxes: _Boxes, members: list[int], gutter: float) -> tuple[list[int], list[int], list[int]]:
    """The members left of the gutter, right of it, and across it."""
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for n in members:
        sides[0 if boxes.right[n] <= gutter else 1 if boxes.left[n] >= gutter else 2].append(n)
    return sides


def _find_gutter(boxes: _Boxes, members: list[int]) -> float | None:
    """The x with a column on each side that the fewest lines cross, or None."""
    found: float | None = None
    fewest = len(members)
    gap = GUTTER * median([boxes.height[n] for n in members])
    lefts, rights = sorted(boxes.left[n] for n in members), sorted(boxes.right[n] for n in members)
    for x in sorted(set(lefts)):
        gutter = x - gap / 2
        ended, begun = bisect_right(rights, gutter), len(lefts) - bisect_left(lefts, gutter)
        crossed = len(members) - ended - begun
        if crossed >= min(ended, begun, fewest) or x - rights[ended - 1] < gap:
            continue
        left, right, across = _sides(boxes, members, gutter)
        if _is_column(boxes, left) and _is_column(boxes, right):
            found, fewest = gutter, len(across)
    return found


def _is_column(boxes: _Boxes, members: list[int]) -> bool:
    if len(members) < COLUMN_LINES:
        return False
    extent = max(boxes.right[n] for n in members) - min(boxes.left[n] for n in members)
    height = median([boxes.height[n] for n in members])
    least = max(COLUMN_LINE_ASPECT * height, COLUMN_FILL * extent)
    long = sum(boxes.right[n] - boxes.left[n] >= least for n in members)
    return long >= max(COLUMN_LINES, COLUMN_LINES_PART * len(members))


def _rows(boxes: _Boxes, members: list[int]) -> list[list[int]]:
    """Lines beside each other, top to bottom."""
    rows: list[list[int]] = []
    for n in sorted(members, key=boxes.middle.__getitem__):
        if rows and _continues(boxes, rows[-1], n):
            rows[-1].append(n)
        else:
            rows.append([n])
    return [sorted(row, key=boxes.left.__getitem__) for row in rows]


def _continues(boxes: _Boxes, row: list[int], line: int) -> bool:
    height = min(boxes.height[line], median([boxes.height[n] for n in row]))
    if boxes.middle[line] - fmean([boxes.middle[n] for n in row]) > ROW_SHIFT * height:
        return False
    left, right = boxes.left[line], boxes.right[line]
    for n in row:
        shared = min(boxes.right[n], right) - max(boxes.left[n], left)
        if shared > STACKED * min(boxes.right[n] - boxes.left[n], right - left):
            return False
    return True
