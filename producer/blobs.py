"""Where document bytes lie: a store of blobs, each written once under a key of our own making."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from producer.errors import NotFound, Unavailable
from producer.settings import Settings

_KEY = re.compile(r"[a-z0-9_]{4,80}")
GONE = "The document is gone from the blob store."
#: A link is valid for a week at most (SigV4).
LONGEST_LINK_S = 7 * 86_400
#: What a look at the store has found is believed for so long, in seconds.
FRESH_S = 5.0


class BlobStore(Protocol):
    """Keys are ours (`[a-z0-9_]{4,80}`), never a user's file name; any other is a `ValueError`."""

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        """Store the bytes, or the rest of the open file, whole or not at all.

        Raises:
            Unavailable: the store cannot take them.
        """
        ...

    def put_new(self, key: str, source: bytes | IO[bytes]) -> bool:
        """`put`, unless there is a blob of that key, which stays as it is. Whether there was none.

        Whoever cannot know whether this was done may do it again: what is there then may be its own.

        Raises:
            Unavailable: the store cannot take them.
        """
        ...

    def get(self, key: str) -> bytes:
        """The blob's bytes.

        Raises:
            NotFound: there is no such blob.
            Unavailable: the store cannot give them now.
        """
        ...

    def local(self, key: str) -> AbstractContextManager[Path]:
        """A readable file with the blob's bytes, for as long as the context lasts.

        Raises:
            NotFound: there is no such blob.
            Unavailable: the store cannot give it now.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the blob, if it is there."""
        ...

    def delete_unfinished(self, older_than_s: float) -> int:
        """Remove what a `put` left behind that was killed so many seconds ago. Returns how many there were."""
        ...

    def link(self, key: str, ttl_s: float, *, media_type: str = "", disposition: str = "") -> str | None:
        """An address at which anybody may read the blob, without credentials, for so many seconds;
        `LONGEST_LINK_S` at most. It is served as of this type and disposition, where the store can.

        None where the store has no addresses.
        """
        ...

    def check(self, *, patient: bool = True) -> None:
        """Look whether the store can be used; `patient`ly, or with one try.

        Raises:
            Unavailable: it cannot be reached, or refuses; the sentence says which store, and why.
        """
        ...


def open_store(settings: Settings) -> BlobStore:
    """The store that `OCRPOOL_BLOB_URL` names. Nothing is asked of it yet."""
    if settings.blob_url.startswith("s3://"):
        from producer.s3 import S3Store

        return S3Store(settings.blob_url, public_url=settings.s3_public_url)
    return FolderStore(settings.blob_dir)


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
        self._write(self._path(key), source, os.replace)

    def put_new(self, key: str, source: bytes | IO[bytes]) -> bool:
        try:
            self._write(self._path(key), source, _move_to_new)
        except _Taken:
            return False
        return True

    def _write(self, path: Path, source: bytes | IO[bytes], move: Callable[[Path, Path], None]) -> None:
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with _created(unfinished) as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    shutil.copyfileobj(source, file, 1 << 20)
            move(unfinished, path)
        except BaseException as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unavailable(f"The blob folder cannot store the document: {error.strerror}.") from error
            raise

    def get(self, key: str) -> bytes:
        with self.local(key) as path:
            try:
                return path.read_bytes()
            except FileNotFoundError as error:  # Deleted since.
                raise NotFound(GONE) from error
            except OSError as error:
                raise Unavailable(f"The blob folder cannot be read: {error.strerror}.") from error

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            found = path.is_file()
        except OSError as error:
            raise Unavailable(f"The blob folder cannot be read: {error.strerror}.") from error
        if not found:
            raise NotFound(GONE)
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

    def link(self, key: str, ttl_s: float, *, media_type: str = "", disposition: str = "") -> str | None:
        return None

    def check(self, *, patient: bool = True) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The blob folder {self.folder} cannot be used: {error.strerror}.") from error
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable(f"The blob folder {self.folder} cannot be used: it is not writable.")


class _Taken(Exception):
    """There is a blob of that key."""


def _created(path: Path) -> IO[bytes]:
    """A new file, for this user alone, and its folder if need be."""
    opener = partial(os.open, mode=0o600)
    with suppress(FileNotFoundError):
        return open(path, "xb", opener=opener)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "xb", opener=opener)


def _move_to_new(unfinished: Path, path: Path) -> None:
    """Give the file its name, unless it is taken. In one step, as `replace` is."""
    try:
        os.link(unfinished, path)
    except FileExistsError as error:
        raise _Taken from error
    os.unlink(unfinished)


class MemoryStore:
    """Blobs in this process's memory, for tests and tools."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        self._blobs[checked(key)] = source if isinstance(source, bytes) else source.read()

    def put_new(self, key: str, source: bytes | IO[bytes]) -> bool:
        if checked(key) in self._blobs:
            return False
        self.put(key, source)
        return True

    def get(self, key: str) -> bytes:
        if checked(key) not in self._blobs:
            raise NotFound(GONE)
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

    def link(self, key: str, ttl_s: float, *, media_type: str = "", disposition: str = "") -> str | None:
        return None

    def check(self, *, patient: bool = True) -> None:
        pass


class Probe:
    """What keeps a store from its work. Many may ask; one of them looks, and not again for `FRESH_S` seconds."""

    def __init__(self, store: BlobStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._looking = threading.Lock()
        self._found = ""
        self._looked_at = float("-inf")

    def trouble(self) -> str:
        """One sentence, or nothing. While another thread looks, what was found before."""
        if self._clock() - self._looked_at >= FRESH_S and self._looking.acquire(blocking=False):
            try:
                self._store.check(patient=False)
                self._found = ""
            except Unavailable as error:
                self._found = str(error)
            finally:
                self._looked_at = self._clock()
                self._looking.release()
        return self._found
