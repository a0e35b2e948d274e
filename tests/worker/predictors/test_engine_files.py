"""Engines are built once on a host, whatever comes in between. Real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from worker.predictors.engine_files import building

#: Says each step on a line; builds an engine where there is none, once it is told to go on.
BUILDER = """
import sys
from pathlib import Path
from worker.predictors.engine_files import building

engine = Path(sys.argv[1]) / "engine"
with building(engine.parent):
    if engine.exists():
        print("found", flush=True)
    else:
        engine.write_text("half")
        print("builds", flush=True)
        sys.stdin.readline()
        engine.write_text("whole")
"""


@contextmanager
def builder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BUILDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until it has said so."""
    assert process.stdout is not None
    assert word in process.stdout.readline()


def test_one_worker_builds_and_the_others_wait(tmp_path: Path) -> None:
    with ExitStack() as stack:
        # Given a worker that builds, and two that come meanwhile
        first = stack.enter_context(builder(tmp_path))
        said(first, "engines.build")
        said(first, "builds")
        others = [stack.enter_context(builder(tmp_path)) for _ in range(2)]
        for other in others:
            said(other, "engines.wait")

        # When it is done
        first.communicate("go on\n", timeout=60)

        # Then they load what it has built, and so does whoever comes later, without a lock
        for other in others:
            said(other, "found")
        with builder(tmp_path) as later:
            said(later, "found")
    assert (tmp_path / "engine").read_text() == "whole"


def test_what_a_killed_worker_left_is_built_anew(tmp_path: Path) -> None:
    with builder(tmp_path) as killed:
        said(killed, "engines.build")
        said(killed, "builds")
        killed.kill()
        killed.wait(timeout=60)
    assert (tmp_path / "engine").read_text() == "half"

    with building(tmp_path):
        assert not (tmp_path / "engine").exists()


def test_a_build_that_fails_is_not_taken_for_whole(tmp_path: Path) -> None:
    def run_out_of_memory() -> None:
        (tmp_path / "engine").touch()
        raise MemoryError

    with pytest.raises(MemoryError), building(tmp_path):
        run_out_of_memory()

    with building(tmp_path):
        assert not (tmp_path / "engine").exists()
