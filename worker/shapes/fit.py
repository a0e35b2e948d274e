"""The lists of shapes that waste least on a histogram.

Widths are fitted exactly: buckets on a line are a shortest path with K steps, found by dynamic programming. Page sizes
have two sides, for which that does not work: sizes are exchanged one at a time until none helps, from several
beginnings; on small cases that finds the best list, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from producer.settings import Size
from worker.detection import wanted_area

#: Multiples that sides of buckets come in: the recogniser steps by 8 columns, the detector shrinks a page 32 times.
WIDTH_GRAIN, SIZE_GRAIN = 16, 32
#: The widest bucket of the recogniser; what is wider is squeezed into it.
WIDEST = 3200
#: One or two characters read as well in this width as in any. The next bucket is from `ROOMY` on: prices such as `0.00`
#: are 80 to 96 px wide, and in a bucket of 96 px more of them lose their point (5 of 213 on receipts).
NARROW, ROOMY = 64, 112
#: Longest side of a detector's bucket. Pages of more extreme aspect get less area than others.
LONGEST = 1728

#: Random beginnings of the search for page sizes.
STARTS = 32

#: Pages that a list must also have room for, whatever it was fitted to: A4 at 150 and 300 dpi, a photo, a square, a
#: strip, a few words; all but the square either way round.
COMMON_PAGES: tuple[Size, ...] = (
    *((1754, 1240), (3508, 2480), (4032, 3024), (1800, 600), (600, 120)),
    *((1240, 1754), (2480, 3508), (3024, 4032), (600, 1800), (120, 600)),
    (1000, 1000),
)
#: What all of them together weigh, as a part of the pages counted.
COMMON_WEIGHT = 0.05


def width_candidates(minimum: int = 0, grain: int = WIDTH_GRAIN, widest: int = WIDEST) -> list[int]:
    """The widths that a list may be made of: from `minimum` on, or `NARROW` and from `ROOMY` on."""
    narrow = [] if minimum else [NARROW]
    least = grain * math.ceil((minimum or ROOMY) / grain)
    return [*narrow, *range(least, widest, grain), widest]


@dataclass(frozen=True)
class WidthFits:
    """The best list of each length."""

    #: For 1, 2, ... widths: the list, ascending.
    lists: tuple[tuple[int, ...], ...]
    #: Columns that each computes for the histogram's lines, padding included.
    columns: tuple[int, ...]

    def best(self, worth: float = 0.0) -> tuple[int, ...]:
        """The list with the lowest cost, if each width costs the part `worth` of the columns of the longest list.

        More shapes take time at the start, memory, and lines from each other's batches.
        """
        price = worth * self.columns[-1]
        return min(zip(self.columns, self.lists, strict=True), key=lambda fit: fit[0] + price * len(fit[1]))[1]


def fit_widths(
    lines: Mapping[int, int], count: int, candidates: Sequence[int], required: Collection[int] = ()
) -> WidthFits:
    """Choose widths that pad the lines least, for each number of widths up to `count`.

    `candidates` ascend, the last is always chosen, and so are those in `required`. Lists too short to hold these are
    left out.
    """
    allowed = np.array(candidates, np.int64)
    weights = np.zeros(len(allowed), np.int64)
    for width, number in lines.items():
        weights[np.searchsorted(allowed, min(width, candidates[-1]))] += number
    before = np.concatenate([[0], np.cumsum(weights)])
    # Row p, column j: the columns computed in bucket j if the next narrower one is p - 1; for p = 0 there is none.
    cost = (before[None, 1:] - before[:-1, None]).astype(np.float64) * allowed
    positions = np.arange(len(allowed))
    forced = np.concatenate([[0], np.cumsum(np.isin(allowed, list(required)))])
    skips = forced[positions][None, :] - forced[:-1][:, None] > 0
    cost[(positions[None, :] < positions[:, None]) | skips] = np.inf
    best, parents = [cost[0]], [np.zeros(len(allowed), np.int64)]
    for _ in range(1, min(count, len(allowed))):
        through = best[-1][:-1, None] + cost[1:]
        parents.append(through.argmin(axis=0))
        best.append(through.min(axis=0))
    reachable = [k for k, row in enumerate(best) if np.isfinite(row[-1])]
    return WidthFits(
        lists=tuple(_path(parents, k, candidates) for k in reachable),
        columns=tuple(int(best[k][-1]) for k in reachable),
    )


def _path(parents: Sequence[NDArray[np.int64]], last: int, candidates: Sequence[int]) -> tuple[int, ...]:
    position, widths = len(candidates) - 1, []
    for k in range(last, -1, -1):
        widths.append(candidates[position])
        position = int(parents[k][position])
    return tuple(reversed(widths))


def need(height: int, width: int) -> Size:
    """The smallest bucket that gives a page the area that the detector wants for it."""
    scale = min(math.sqrt(wanted_area(height, width) / (height * width)), LONGEST / max(height, width))
    rows, columns = (SIZE_GRAIN * math.ceil(max(1, side * scale) / SIZE_GRAIN) for side in (height, width))
    return min(rows, LONGEST), min(columns, LONGEST)


def with_common(pages: Mapping[Size, int], weight: float = COMMON_WEIGHT) -> dict[Size, float]:
    """The pages, and `COMMON_PAGES` with a small weight."""
    each = max(1, sum(pages.values())) * weight / len(COMMON_PAGES)
    weights: Counter[Size] = Counter(pages)
    return {size: weights[size] + (each if size in COMMON_PAGES else 0) for size in {*weights, *COMMON_PAGES}}


def fit_sizes(pages: Mapping[Size, float], count: int) -> tuple[Size, ...]:
    """At most `count` detector sizes that give every page its area, with few padded pixels; smallest first."""
    needs: dict[Size, float] = {}
    for (height, width), weight in pages.items():
        needs[need(height, width)] = needs.get(need(height, width), 0.0) + weight
    rows, columns = (sorted({size[axis] for size in needs}) for axis in (0, 1))
    candidates = np.array(list(product(rows, columns)), np.int64)
    wanted, weights = np.array(list(needs), np.int64), np.array(list(needs.values()))
    holds = (candidates[None] >= wanted[:, None]).all(axis=2)
    # Row: a need, column: a candidate. The pixels that the candidate costs for all pages of that need.
    cost = np.where(holds, weights[:, None] * candidates.prod(axis=1), np.inf)
    count = min(count, len(candidates))
    chosen = min((_exchanged(cost, start) for start in _starts(cost, count)), key=lambda one: _total(cost, one))
    used = sorted({int(chosen[place]) for place in cost[:, chosen].argmin(axis=1)})
    sizes = [(int(height), int(width)) for height, width in candidates[used]]
    return tuple(sorted(sizes, key=lambda size: (size[0] * size[1], size)))


def _total(cost: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """The sum of each row's least cost. The last column of `cost` is finite everywhere."""
    return float(cost[:, list(chosen)].min(axis=1).sum())


def _starts(cost: NDArray[np.float64], count: int) -> Iterator[list[int]]:
    """Lists to begin with: one that grew by what helped most, and others by chance, the same each time."""
    last = cost.shape[1] - 1
    grown = [last]
    while len(grown) < count:
        grown.append(_best_with(cost, grown)[0])
    yield grown
    chance = np.random.default_rng(0)
    for _ in range(STARTS):
        yield [last, *chance.choice(last, count - 1, replace=False).tolist()] if last else [last]


def _exchanged(cost: NDArray[np.float64], start: Sequence[int]) -> list[int]:
    """`start`, with one column exchanged for another for as long as that lowers the sum."""
    chosen, total, improved = list(start), _total(cost, start), True
    while improved:
        improved = False
        for place in range(len(chosen)):
            others = [*chosen[:place], *chosen[place + 1 :]]
            candidate, reached = _best_with(cost, others)
            if reached < total * (1 - 1e-12):
                chosen, total, improved = [*others, candidate], reached, True
    return chosen


def _best_with(cost: NDArray[np.float64], others: Sequence[int]) -> tuple[int, float]:
    """The column that goes best with the others, and the sum that they reach together."""
    so_far = cost[:, list(others)].min(axis=1, initial=np.inf)
    sums = np.minimum(cost, so_far[:, None]).sum(axis=0)
    return int(sums.argmin()), float(sums.min())
