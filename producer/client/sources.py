"""Documents as the clients take them, and as they send them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from producer import documents
from producer.documents import Source
from producer.errors import InvalidRequest
from producer.escaping import shown_name

#: A document that is sent, with its name.
Named = tuple[str, "bytes | Sent"]


class Sent:
    """A file as it is sent, in the form in which httpx reads files: with as many bytes as it had when it was looked at,
    whoever writes to it meanwhile."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """To the file's start, or to its end to know its size."""
        self._at = self._size_bytes if whence == os.SEEK_END else offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size_bytes: int) -> bytes:
        wanted = min(size_bytes, self._size_bytes - self._at)
        try:
            self._file.seek(self._at)
            read = self._file.read(wanted)
        except (OSError, ValueError) as error:
            raise documents.unreadable(error) from error
        if wanted and not read:
            raise InvalidRequest("The document has become shorter while it was sent.")
        self._at += len(read)
        return read


@contextmanager
def opened(source: Source, name: str | None) -> Iterator[tuple[Named, int]]:
    """The document with its name, and its size in bytes.

    Raises:
        InvalidRequest: there is no such file, it cannot be read, or it is no document at all.
    """
    if not isinstance(source, str | Path):
        yield _measured(documents.readable(source), name or "")
        return
    path = Path(source)
    with documents.opened(path) as file:
        yield _measured(file, path.name if name is None else name)


def _measured(document: bytes | IO[bytes], name: str) -> tuple[Named, int]:
    _, size_bytes = documents.look(document)
    sent = document if isinstance(document, bytes) else Sent(document, size_bytes)
    return (shown_name(name), sent), size_bytes
