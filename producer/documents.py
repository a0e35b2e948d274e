"""A document's bytes, in memory or in a file: opened, looked at and told apart."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import IO, Any, TypeVar

from producer.errors import InvalidRequest, OcrpoolError
from producer.escaping import escaped
from producer.job import ADDRESS
from producer.media import SNIFF_BYTES

#: A document as it is handed in: its bytes, a file's path or an address, or a file open for reading.
Source = bytes | bytearray | memoryview | Path | str | IO[bytes]

Document = TypeVar("Document")


def with_names(
    documents: Iterable[Document], names: Iterable[str] | None
) -> Iterator[tuple[Document, str | OcrpoolError | None]]:
    """Each document with its name, or None where nobody named them. One that comes when the names are used up has its
    refusal instead.

    Raises:
        InvalidRequest: there are fewer names than documents, as far as both can be counted.
    """
    if names is None:
        return zip(documents, itertools.repeat(None))
    fewer = InvalidRequest("names: there are fewer of them than documents.")
    if isinstance(documents, Sized) and isinstance(names, Sized) and len(names) < len(documents):
        raise fewer
    return zip(documents, itertools.chain(names, itertools.repeat(fewer)), strict=False)


def readable(source: Any) -> bytes | IO[bytes]:
    """What was handed in as a document, unless it is a path. Raises `InvalidRequest` for what is none."""
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, bytes) or (hasattr(source, "read") and hasattr(source, "seek")):
        return source  # type: ignore[no-any-return]
    raise InvalidRequest(f"A document is bytes, a path, an address or an open file; this is {type(source).__name__}.")


def no_address(source: Source) -> None:
    """Raises `InvalidRequest` for a document that has to be fetched, where there are many."""
    if isinstance(source, str) and ADDRESS.match(source):
        raise InvalidRequest("A document at an address is handed in by itself, with submit.")


def opened(path: Path) -> IO[bytes]:
    """The file at the path. Raises `InvalidRequest` where there is none that can be read."""
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # the latter for a path with NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"{escaped(str(path))} cannot be read: {reason}.") from error


def look(source: bytes | IO[bytes]) -> tuple[bytes, int]:
    """The document's first bytes and its size. An open file stands at its start afterwards.

    Raises:
        InvalidRequest: the file is closed, cannot be read from its start again, or is open for text.
    """
    if isinstance(source, bytes):
        return source[:SNIFF_BYTES], len(source)
    try:
        size_bytes = source.seek(0, os.SEEK_END)
        source.seek(0)
        head = source.read(SNIFF_BYTES)
        source.seek(0)
    except (OSError, ValueError) as error:  # the latter for a closed file, or one that is no UTF-8
        raise unreadable(error) from error
    if not isinstance(head, bytes):
        raise InvalidRequest("The document cannot be read: it is open for text, and not for bytes.")
    return head, size_bytes


def unreadable(error: OSError | ValueError) -> InvalidRequest:
    """What a file has that raised this."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidRequest(f"The document cannot be read: {reason.rstrip('.')}.")


def content_digest(source: bytes | IO[bytes]) -> str:
    """SHA-256 of the document. An open file is read from where it stands, its start, and stands there afterwards."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.file_digest(source, "sha256")  # type: ignore[arg-type]  # reading is all that it does
    source.seek(0)
    return digest.hexdigest()
