"""Seeds and lengths: a short slice by default, everything with `CHAOS=full`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.chaos.oracle import REPORTS
from tests.chaos.pool import MakePool, Pool
from tests.redis_server import Server

FULL = os.environ.get("CHAOS") == "full"
SEED = int(os.environ.get("CHAOS_SEED", "0")) or time.time_ns() % 1_000_000


def pytest_report_header() -> str:
    return f"chaos: {'everything' if FULL else 'the short slice'}, CHAOS_SEED={SEED}"


def pytest_terminal_summary() -> None:
    """The table of what was done and what came of it."""
    columns = ("fault", "faults", "seconds", "jobs", "pages", "lost", "duplicates", "read_again", "refused", "ended")
    table = Table(*(name.replace("_", " ") for name in columns), title=f"CHAOS_SEED={SEED}")
    for report in REPORTS:
        table.add_row(*(str(getattr(report, name)) for name in columns))
    if REPORTS:
        Console(width=130).print(table)


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture
def full() -> bool:
    return FULL


@pytest.fixture
def pool(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    """Makes the test's pool, with settings of its own. Workers that end again and again come back after a second: the
    launcher's growing pauses would be most of the time."""
    monkeypatch.setattr("producer.backoff.LONGEST_S", 1.0)
    pools: list[Pool] = []

    def make(server: Server | None = None, **settings: object) -> Pool:
        pools.append(Pool(tmp_path, seed, server, **settings))
        return pools[-1]

    yield make
    for made in pools:
        made.close()
