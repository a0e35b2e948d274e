"""Logs tell of trouble, and cause none."""

from __future__ import annotations

import json
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

HOSTILE = r"""
import logging
import structlog
from producer.logs import configure_logs
from producer.settings import Settings
configure_logs(Settings(log_format="{format}"))
words = "\nforged\r\x1b[2J\u2028forged\x85forged\udc80"
log = structlog.get_logger()
log.error("message.refused" + words, reason=words, **{{"field" + words: words}})
log.error("message.refused", several=[words], error=ValueError(words))
logging.getLogger("celery").error("of another library%s", words)
try:
    raise ValueError(words)
except ValueError:
    log.exception("failed" + words)
    logging.getLogger("celery").exception("failed" + words)
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


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_words_of_strangers_forge_no_line_and_move_no_cursor(log_format: str) -> None:
    command = [sys.executable, "-c", HOSTILE.format(format=log_format)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr

    assert told.replace("\n", "").isprintable()
    lines = told.splitlines()
    if log_format == "json":
        assert [json.loads(line)["level"] for line in lines] == ["error"] * 5
    else:
        of_a_traceback = [line for line in lines if line.startswith("    ")]
        assert len(lines) == 5 + len(of_a_traceback)
        assert not any(line.startswith("forged") for line in lines)
