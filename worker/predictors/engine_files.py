"""Where built engines are kept: one folder for each combination of what makes them unusable elsewhere."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.predictors import Shape


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
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder against the other workers of this host. Blocks while another has it; a process that ends gives
    it back."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
