"""Seeds and lengths: a short slice by default, everything with `CHAOS=full`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.pool import Pool

FULL = os.environ.get("CHAOS") == "full"
SEED = int(os.environ.get("CHAOS_SEED", "0")) or time.time_ns() % 1_000_000


def pytest_report_header() -> str:
    return f"chaos: {'everything' if FULL else 'the short slice'}, CHAOS_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture
def full() -> bool:
    return FULL


@pytest.fixture
def pool(tmp_path: Path, seed: int) -> Iterator[Callable[..., Pool]]:
    """Makes the test's pool, with settings of its own."""
    pools: list[Pool] = []

    def make(**settings: object) -> Pool:
        pools.append(Pool(tmp_path, seed, **settings))
        return pools[-1]

    yield make
    for made in pools:
        made.close()
