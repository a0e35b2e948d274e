"""A disk for the documents that fills up while they come in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from producer.errors import Unavailable
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool
from tests.documents import png


def fill(file: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        file.write_bytes(bytes(1 << 23))  # twice what there is


@pytest.mark.chaos
def test_the_blob_folder_full(pool: MakePool, tiny: Path, seed: int, full: bool) -> None:
    chaos, report = pool(blob_url=f"file://{tiny}"), Report("the disk of the documents full", seed)
    chaos.start_workers(2)
    with chaos.load():
        for _ in range(6 if full else 2):
            time.sleep(chaos.random.uniform(0.5, 2))
            fill(filler := tiny / "filler")
            chaos.refuses()
            with pytest.raises(Unavailable, match="blob folder cannot store the document: No space left"):
                chaos.producer.submit(png("refused"))
            chaos.finish(60)  # what was accepted before
            filler.unlink()
            started = time.monotonic()
            chaos.goes_on()
            report.recovered(time.monotonic() - started)
    chaos.finish(60)
    judge(chaos, report)
