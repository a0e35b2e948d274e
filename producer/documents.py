"""A document's bytes, in memory or in a file: opened, looked at and told apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

from producer.errors import InvalidRequest
from producer.escaping import escaped
from producer.media import SNIFF_BYTES


def opened(path: Path) -> IO[bytes]:
    """The file at the path. Raises `InvalidRequest` where there is none that can be read."""
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # the latter for a path with NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"{escaped(str(path))} cannot be read: {reason}.") from error


def look(source: bytes | IO[bytes]) -> tuple[bytes, int]:
    """The document's first bytes and its size. An open file stands at its start afterwards."""
    if isinstance(source, bytes):
        return source[:SNIFF_BYTES], len(source)
    try:
        size_bytes = source.seek(0, os.SEEK_END)
        source.seek(0)
        head = source.read(SNIFF_BYTES)
        source.seek(0)
    except OSError as error:
        raise InvalidRequest(f"The document cannot be read: {error.strerror}.") from error
    return head, size_bytes


def content_digest(source: bytes | IO[bytes]) -> str:
    """SHA-256 of the document. An open file is read from where it stands, its start, and stands there afterwards."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.file_digest(source, "sha256")  # type: ignore[arg-type]  # reading is all that it does
    source.seek(0)
    return digest.hexdigest()
