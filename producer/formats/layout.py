"""Where the words of a page stand: what the formats with places share."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from producer.job import Line, PageResult, Point, Quad

#: A quad at least this many times as high as wide was turned to the left before it was read, as PP-OCR does.
TALL = 1.5

#: Widths of letters in thousandths of their height, about those of Helvetica: all that can be said of where a word
#: stands within its line, because the recogniser tells of whole lines.
_NARROW, _SLIM, _COMMON, _BROAD, _FULL = 250, 330, 560, 780, 1000
_WIDTHS = {
    **dict.fromkeys("ijl.,:;'|!", _NARROW),
    **dict.fromkeys(' frtI()[]{}-/\\"`*', _SLIM),
    **dict.fromkeys("mwMWOQGCDHNUABKRV%@&", _BROAD),
}

#: Left, top, right, bottom, in pixels of the upright page.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """One row of a page's text, and the lines beside each other that it was joined of."""

    text: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Word:
    """A part of a line without blanks, and about where it stands."""

    text: str
    quad: Quad


def rows(page: PageResult) -> list[Row]:
    """The page's rows in reading order. No line is left out, nor any row of the text.

    A page whose text is not its lines' gives its lines a row each, or without lines its text's rows.
    """
    found: list[Row] = []
    first = 0
    if not page.lines and not page.text:
        return found
    for text in page.text.split("\n"):
        last, joined = first, ""
        while last < len(page.lines) and (last == first or len(joined) < len(text)):
            joined = page.lines[last].text if last == first else f"{joined} {page.lines[last].text}"
            last += 1
        if joined != text:
            break
        found.append(Row(text, page.lines[first:last]))
        first = last
    else:
        if first == len(page.lines):
            return found
    if page.lines:
        return [Row(line.text, (line,)) for line in page.lines]
    return [Row(text, ()) for text in page.text.split("\n") if text]


def reading_quad(line: Line) -> Quad:
    """The line's corners, clockwise from where its text begins: a tall one runs downwards, a turned one backwards."""
    quad = line.quad
    sides = [math.dist(quad[n], quad[(n + 1) % 4]) for n in range(4)]
    start = 1 if max(sides[1], sides[3], 1) >= TALL * max(sides[0], sides[2], 1) else 0
    start += 2 if line.angle == 180 else 0
    a, b, c, d = (quad[(start + n) % 4] for n in range(4))
    return a, b, c, d


def bounds(quads: Sequence[Quad]) -> Box:
    """The smallest upright box of whole pixels around the quads."""
    points = [point for quad in quads for point in quad]
    across, down = [x for x, _ in points], [y for _, y in points]
    return math.floor(min(across)), math.floor(min(down)), math.ceil(max(across)), math.ceil(max(down))


def advance(character: str) -> int:
    """About how wide the character is, in thousandths of the text's height."""
    if unicodedata.east_asian_width(character) in "WF":
        return _FULL
    return _WIDTHS.get(character, _COMMON)


def words(line: Line) -> Iterator[Word]:
    """The line's words, each with the share of its quad that is due to its letters; none for blanks alone."""
    ends = [0, *accumulate(map(advance, line.text))]
    quad = reading_quad(line)
    at = 0
    for text in line.text.split():
        at = line.text.index(text, at)
        start, end = ends[at] / ends[-1], ends[at + len(text)] / ends[-1]
        at += len(text)
        yield Word(text, _part(quad, start, end))


def _part(quad: Quad, start: float, end: float) -> Quad:
    a, b, c, d = quad
    return _between(a, b, start), _between(a, b, end), _between(d, c, end), _between(d, c, start)


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
