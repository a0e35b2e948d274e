"""Where document bytes lie: a store of blobs, each written once under a key of our own making."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from producer.errors import NotFound, Unavailable

_KEY = re.compile(r"[a-z0-9_]{4,80}")


class BlobStore(Protocol):
    """Keys are ours (`[a-z0-9_]{4,80}`), never a user's file name; any other is a `ValueError`."""

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        """Store the bytes, or the rest of the open file, whole or not at all.

        Raises:
            Unavailable: the store cannot take them.
        """
        ...

    def get(self, key: str) -> bytes:
        """The blob's bytes.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def local(self, key: str) -> AbstractContextManager[Path]:
        """A readable file with the blob's bytes, for as long as the context lasts.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the blob, if it is there."""
        ...

    def delete_unfinished(self, older_than_s: float) -> int:
        """Remove what a `put` left behind that was killed so many seconds ago. Returns how many there were."""
        ...


def checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a blob key: {key!r}")
    return key


class FolderStore:
    """Blobs as files of one folder, spread over 256 folders below it. Producers and workers share the folder.

    What is being written has a name that begins with a dot. Files without a name would leave nothing behind either, but
    network file systems do not have them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / checked(key)[-2:] / key

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        path = self._path(key)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                temporary = file.name
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    shutil.copyfileobj(source, file, 1 << 20)
            os.replace(temporary, path)
        except BaseException as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unavailable(f"The blob folder cannot store the document: {error.strerror}.") from error
            raise

    def get(self, key: str) -> bytes:
        with self.local(key) as path:
            return path.read_bytes()

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        if not path.is_file():
            raise NotFound("The document is gone from the blob store.")
        yield path

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_unfinished(self, older_than_s: float) -> int:
        before, deleted = time.time() - older_than_s, 0
        for path in self.folder.glob("??/.*"):
            with suppress(FileNotFoundError):  # Its `put` may just have come to its end.
                if path.stat().st_mtime < before:
                    path.unlink()
                    deleted += 1
        return deleted


class MemoryStore:
    """Blobs in this process's memory, for tests and tools."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        self._blobs[checked(key)] = source if isinstance(source, bytes) else source.read()

    def get(self, key: str) -> bytes:
        if checked(key) not in self._blobs:
            raise NotFound("The document is gone from the blob store.")
        return self._blobs[key]

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        data = self.get(key)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield Path(file.name)

    def delete(self, key: str) -> None:
        self._blobs.pop(checked(key), None)

    def delete_unfinished(self, older_than_s: float) -> int:
        return 0
