"""What a list of shapes wastes: pixels that a model computes and that show nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producer.settings import Size
from worker.detection import place
from worker.recognition import batches_of
from worker.tensors import portions

#: PaddleX sorts a page's lines by width, takes batches of 6, and pads each to its widest line or to 320 pixels.
PADDLEX_BATCH, PADDLEX_LEAST, PADDLEX_MOST = 6, 320, 3200


@dataclass(frozen=True)
class Padding:
    """Pixels, or columns of pixels where the height is always the same."""

    #: Of the lines or pages themselves.
    real: int
    #: Of their places in batches: the rest of a place is padding.
    places: int
    #: Of whole batches: the rest are places that stayed empty.
    batches: int

    @property
    def share(self) -> float:
        """Padding as a part of the places that are taken (0 to 1)."""
        return 1 - self.real / self.places if self.places else 0.0

    @property
    def empty_share(self) -> float:
        """Empty places as a part of all that is computed (0 to 1)."""
        return 1 - self.places / self.batches if self.batches else 0.0


def line_padding(lines: Mapping[int, int], widths: Sequence[int], batches: Sequence[int]) -> Padding:
    """What lines, counted by width, cost in columns. `widths` and `batches` ascend; wider lines are squeezed.

    Batches are as full as they can be: all lines of a width wait at once. A pool with less to do leaves more empty.
    """
    in_bucket = Counter[int]()
    for width, count in lines.items():
        in_bucket[widths[min(bisect_left(widths, width), len(widths) - 1)]] += count
    return Padding(
        real=sum(min(width, widths[-1]) * count for width, count in lines.items()),
        places=sum(bucket * count for bucket, count in in_bucket.items()),
        batches=sum(bucket * _slots(count, batches_of(bucket, batches)) for bucket, count in in_bucket.items()),
    )


def page_padding(pages: Mapping[Size, int], sizes: Sequence[Size], batches: Sequence[int]) -> Padding:
    """What pages, counted by (height, width), cost in the detector's pixels, under its own rule."""
    ascending = sorted(sizes, key=lambda size: size[0] * size[1])
    in_bucket = Counter[Size]()
    real = 0
    for (height, width), count in pages.items():
        bucket, scale = place(ascending, height, width)
        in_bucket[bucket] += count
        real += count * max(1, round(height * scale)) * max(1, round(width * scale))
    return Padding(
        real=real,
        places=sum(rows * columns * count for (rows, columns), count in in_bucket.items()),
        batches=sum(rows * columns * _slots(count, batches) for (rows, columns), count in in_bucket.items()),
    )


def paddlex_columns(widths: NDArray[np.int64]) -> int:
    """The columns that PaddleX's policy computes for one page's lines; it never fills a batch from two pages."""
    ordered = np.minimum(np.sort(widths), PADDLEX_MOST)
    starts = range(0, len(ordered), PADDLEX_BATCH)
    parts = [ordered[start : start + PADDLEX_BATCH] for start in starts]
    return sum(len(part) * max(PADDLEX_LEAST, int(part[-1])) for part in parts)


def _slots(items: int, batches: Sequence[int]) -> int:
    """Places in the batches that hold `items`: full ones, and those that a stage takes for the rest."""
    full, rest = divmod(items, batches[-1])
    return full * batches[-1] + sum(portions(batches, rest))
