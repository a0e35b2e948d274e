"""The folder of built engines is one worker's at a time."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from worker.predictors.engine_files import one_at_a_time

BUILD = """
import sys
from pathlib import Path
from worker.predictors.engine_files import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("building", flush=True)
    sys.stdin.read()
"""


def test_one_worker_builds_and_one_that_dies_gives_way(tmp_path: Path) -> None:
    # Given a worker that builds
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"building\n"

        # Then no other does
        with (tmp_path / ".lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        worker.kill()

    # Until it is gone
    with one_at_a_time(tmp_path):
        pass
