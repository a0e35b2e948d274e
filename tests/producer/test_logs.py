"""Logs tell of trouble, and cause none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import structlog
from producer.logs import configure_logs
from producer.settings import Settings
configure_logs(Settings(log_format="{format}"))
log = structlog.get_logger()
log.info("started", pages=1)
log.warning("slow")
try:
    raise ValueError("damaged")
except ValueError:
    log.exception("failed")
print("lives")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_that_cannot_be_written_ends_nothing(log_format: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(format=log_format)],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=60,
        )
    assert done.stdout == b"lives\n"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_of_every_level_are_written(log_format: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(format=log_format)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
    for word in ("started", "slow", "failed", "damaged"):
        assert word in told
