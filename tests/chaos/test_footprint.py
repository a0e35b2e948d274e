"""The soak's eye for growth."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.chaos.footprint import Footprint


def sampled(values: Sequence[float]) -> Footprint:
    return Footprint("a worker", [{"files": value} for value in values])


@pytest.mark.parametrize("samples", [15, 90])
def test_what_fills_up_is_flat(samples: int) -> None:
    chance = random.Random(samples)
    warming = [min(50, 20 + 40 * number // samples * 3) for number in range(samples)]
    assert not sampled([value + chance.choice((-2, 0, 0, 1)) for value in warming]).growth()


def test_one_late_step_is_flat() -> None:
    assert not sampled([40] * 24 + [45] * 6).growth()


def test_a_leak_is_seen_though_it_comes_in_steps() -> None:
    leaking = [32 + fault // 3 for fault in range(90)]
    assert sampled(leaking).growth()["files"] == pytest.approx(20, abs=1)
