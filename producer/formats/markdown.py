"""Markdown (CommonMark), as far as lines allow: larger lines are headings, gaps part paragraphs, nothing is invented.

Rows of prose run on; where a row ends although the next word had room in it, as on a receipt, the break stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from unicodedata import east_asian_width

from producer.formats.layout import Row, bounds, reading_quad, rows, words
from producer.job import Job, JobResult, PageFailure, PageOutcome

#: A heading's letters are so many times as high as the page's common ones: of the second level, of the first.
HEADING, TITLE = 1.35, 1.9
#: A longer row is a sentence in large print.
HEADING_CHARACTERS = 80
#: A gap of so many line heights begins a new paragraph, as does a row that is so much higher or lower than the last.
PARAGRAPH_GAP, SAME_HEIGHT = 0.9, 1.25

_ANYWHERE = re.compile(r"([\\`*_\[\]<>~|&])")
#: What would make a list, a heading, a rule, a fence or a table of a line that begins with it.
_AT_START = re.compile(r"^(?:([#+\-=:])|(\d{1,9})([.)]))")
#: What would close a heading, and not be shown, at its end.
_CLOSING = re.compile(r"(?<= )#+$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class _Placed:
    """A row, and where it stands."""

    row: Row
    top: float
    right: float
    bottom: float
    height: float


def render(result: JobResult, job: Job) -> str:
    """The pages in order, a rule and a comment with its number before each but the first."""
    parts = []
    for n, page in enumerate(result.pages):
        if n:
            parts.append(f"---\n\n<!-- page {page.page} -->")
        parts += _blocks(page)
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """One line of text, so that Markdown shows it as it is."""
    text = _ANYWHERE.sub(r"\\\1", " ".join(_CONTROL.sub(" ", text).split()))
    return _AT_START.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", text)


def _blocks(page: PageOutcome) -> Iterator[str]:
    if isinstance(page, PageFailure):
        yield f"*{escaped(f'Page {page.page} could not be read: {page.error.message} ({page.error.code})')}*"
        return
    all_rows = [row for row in rows(page) if row.text.strip()]
    placed = [_placed(row) for row in all_rows if row.lines]
    if not placed:
        yield from (escaped(row.text) for row in all_rows)
        return
    common = median(line.height for line in placed)
    for paragraph in _paragraphs(placed, common):
        level = _level(paragraph, common)
        if level:
            text = " ".join(escaped(line.row.text) for line in paragraph)
            yield "#" * level + " " + _CLOSING.sub(r"\\\g<0>", text)
        else:
            yield _prose(paragraph)


def _placed(row: Row) -> _Placed:
    quads = [reading_quad(line) for line in row.lines]
    _, top, right, bottom = bounds(quads)
    heights = [math.dist(a, d) for a, _, _, d in quads]
    return _Placed(row, top, right, bottom, max(median(heights), 1.0))


def _paragraphs(placed: list[_Placed], common: float) -> Iterator[list[_Placed]]:
    paragraph: list[_Placed] = []
    for line in placed:
        if paragraph and _parted(paragraph[-1], line, common):
            yield paragraph
            paragraph = []
        paragraph.append(line)
    yield paragraph


def _parted(above: _Placed, below: _Placed, common: float) -> bool:
    if above.bottom - 0.5 * above.height > below.bottom or below.top - above.bottom > PARAGRAPH_GAP * common:
        return True  # The next column, or a gap.
    larger = max(above.height, below.height)
    return larger >= HEADING * common and larger >= SAME_HEIGHT * min(above.height, below.height)


def _level(paragraph: list[_Placed], common: float) -> int:
    """1 or 2 for a heading, 0 for text."""
    height = min(line.height for line in paragraph)
    characters = sum(len(line.row.text) for line in paragraph)
    if height < HEADING * common or characters > HEADING_CHARACTERS:
        return 0
    return 1 if height >= TITLE * common else 2


def _prose(paragraph: list[_Placed]) -> str:
    right = max(line.right for line in paragraph)
    text = escaped(paragraph[0].row.text)
    for line, below in pairwise(paragraph):
        text += ("\n" if _runs_on(line, below, right) else "\\\n") + escaped(below.row.text)
    return text


def _runs_on(line: _Placed, below: _Placed, right: float) -> bool:
    """Whether the row ends where it does because the next one's first word had no room in it any more."""
    if len(line.row.lines) > 1 or len(below.row.lines) > 1:
        return False
    first = next(words(below.row.lines[0]), None)
    if first is None:
        return False
    a, b, _, _ = first.quad
    # Between Chinese or Japanese letters a row may end anywhere.
    needed = below.height if east_asian_width(first.text[0]) in "WF" else math.dist(a, b) + below.height / 3
    return line.right + needed > right
