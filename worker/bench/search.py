"""The largest number that holds, found with few trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """The largest number that was seen to hold; 0 for none."""

    largest: int
    #: Whether a number beyond it, within the precision, was seen to fail.
    settled: bool


def largest_held(
    holds: Callable[[int], bool],
    *,
    start: int,
    limit: int,
    precision: float = 0.05,
    expired: Callable[[], bool] = lambda: False,
) -> Held:
    """Double from `start` while `holds(n)`, then bisect. Whatever holds for n is taken to hold for less.

    Args:
        limit: No larger number is tried.
        precision: Bisecting ends when the gap is this part of what holds.
        expired: No further trial is made once it is true.
    """
    held, failed, trial = 0, limit + 1, min(start, limit)
    while failed - held > max(1, precision * held):
        if expired():
            return Held(held, settled=False)
        if holds(trial):
            held = trial
        else:
            failed = trial
        doubled = min(2 * max(held, 1), limit)
        trial = doubled if failed > limit and doubled > held else (held + failed) // 2
        if trial <= held:
            break
    return Held(held, settled=failed <= limit)
