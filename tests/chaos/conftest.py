"""Seeds and lengths: a short slice by default, everything with `CHAOS=full`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.chaos.pool import ROW, MakePool, Pool
from tests.redis_server import Server, Watched

FULL = os.environ.get("CHAOS") == "full"
#: Processes that share a run share its seed.
SEED = int(os.environ.setdefault("CHAOS_SEED", str(time.time_ns() % 1_000_000)))
#: Rows are appended to this file, one JSON object a line, by the process that all others report to.
KEEP = "" if "PYTEST_XDIST_WORKER" in os.environ else os.environ.get("CHAOS_REPORT", "")
#: The rows of this run, whichever process judged them.
ROWS: list[dict[str, Any]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The flood takes longest by far: in a run of several processes it begins first."""
    items.sort(key=lambda item: "flood" not in item.name)


def pytest_report_header() -> str:
    return f"chaos: {'everything' if FULL else 'the short slice'}, CHAOS_SEED={SEED}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep a test's rows."""
    if report.when != "teardown":
        return
    rows: list[Any] = [row for name, row in report.user_properties if name == ROW]
    ROWS.extend(rows)
    if KEEP:
        with Path(KEEP).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def pytest_terminal_summary() -> None:
    """The table of what was done and what came of it."""
    columns = ("fault", "faults", "seconds", "jobs", "pages", "lost", "duplicates", "read_again", "refused", "ended")
    table = Table(*(name.replace("_", " ") for name in columns), title=f"CHAOS_SEED={SEED}")
    for row in ROWS:
        table.add_row(*(str(row[name]) for name in columns))
    if ROWS:
        Console(width=130).print(table)


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture
def full() -> bool:
    return FULL


@pytest.fixture
def pool(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[MakePool]:
    """Makes the test's pool, with settings of its own. Workers that end again and again come back after a second: the
    launcher's growing pauses would be most of the time."""
    monkeypatch.setattr("producer.backoff.LONGEST_S", 1.0)
    pools: list[Pool] = []

    def make(server: Server | Watched | None = None, **settings: object) -> Pool:
        pools.append(Pool(tmp_path, seed, server, **settings))
        pools[-1].rows = request.node.user_properties
        return pools[-1]

    yield make
    for made in pools:
        made.close()
