"""Which pages of a document are read: `2,4-6`, as printers have it. Pages count from 1."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

_RANGE = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?")
#: Characters of a text that is looked at.
MOST_CHARS = 6_000


def normal(text: str) -> str:
    """The same pages in order, once each, in the fewest words; empty for all.

    Raises:
        ValueError: the text names no pages.
    """
    runs = _runs(_parsed(text))
    return ",".join(str(run.start) if len(run) == 1 else f"{run.start}-{run.stop - 1}" for run in runs)


def numbers(ranges: str) -> Iterator[int]:
    """The page numbers in order; without end if the text is empty. The text is a normal one."""
    return itertools.chain.from_iterable(_parsed(ranges)) if ranges else itertools.count(1)


def up_to(ranges: str, pages: int) -> list[range]:
    """The runs of consecutive pages that a document of so many pages has of them."""
    if not ranges:
        return [range(1, pages + 1)]
    return [range(run.start, min(run.stop, pages + 1)) for run in _parsed(ranges) if run.start <= pages]


def _parsed(text: str) -> list[range]:
    runs = []
    for part in text.split(",") if text else ():
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise ValueError("pages from 1 to 999,999 and ranges of them, such as 2,4-6")
        runs.append(range(first, last + 1))
    return runs


def _runs(ranges: Iterable[range]) -> list[range]:
    """Those ranges in order, with what overlaps or touches made one."""
    runs: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if runs and one.start <= runs[-1].stop:
            runs[-1] = range(runs[-1].start, max(runs[-1].stop, one.stop))
        else:
            runs.append(one)
    return runs
