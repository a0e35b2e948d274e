"""Where built engines are kept: one folder for each combination of what makes them unusable elsewhere."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from worker.predictors import Shape

#: Files of ours in an engine folder: one that its builder has locked, and one that says that all is there.
LOCK, WHOLE = "lock", "whole"

log = structlog.get_logger(__name__)


def digest(paths: Iterable[Path]) -> str:
    """The first 12 hex digits of the SHA-256 over a model's files; of a folder, those named `inference.*`."""
    sha256 = hashlib.sha256()
    for path in sorted(paths):
        for file in sorted(path.glob("inference.*")) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                sha256.update(hashlib.file_digest(opened, "sha256").digest())
    return sha256.hexdigest()[:12]


def engine_folder(root: Path, model: Path, *, precision: str, shapes: Iterable[Shape], card: str, runtime: str) -> Path:
    """The folder below `root` for the engines of one model file or folder, made if it is missing.

    An engine runs only on the kind of card and with the runtime that built it, and only for its shapes: each of these
    is in the path, so that a change of any leads to a new build instead of a wrong or refused engine.
    """
    listed = ",".join(str(shape) for shape in sorted(shapes))
    key = hashlib.sha256(listed.encode()).hexdigest()[:12]
    host = re.sub(r"[^A-Za-z0-9.]+", "-", f"{card} {runtime}")
    folder = root / host / f"{digest([model])}-{precision}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """What is done inside builds the folder's engines, or loads them where another worker has built them meanwhile.

    One process of the host builds at a time; the others wait here. A folder that was left half-way is emptied first:
    runtimes refuse an engine that was cut off, at every start.
    """
    whole = folder / WHOLE
    with ExitStack() as alone:
        if not whole.exists():
            lock = alone.enter_context((folder / LOCK).open("wb"))
            _acquire(lock.fileno(), folder)
            if whole.exists():
                alone.close()
            else:
                _empty(folder)
                log.info("engines.build", folder=str(folder))
        yield
        whole.touch()


def _acquire(lock: int, folder: Path) -> None:
    """Take the lock; it is let go with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("engines.wait", folder=str(folder))
        fcntl.flock(lock, fcntl.LOCK_EX)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
