"""Documents as the clients take them, and as they send them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from producer import documents
from producer.escaping import shown_name

#: A document: its bytes, a file's path or an address, or a file open for reading.
Source = bytes | Path | str | IO[bytes]

#: A document that is sent, with its name.
Named = tuple[str, bytes | IO[bytes]]


@contextmanager
def opened(source: Source, name: str | None) -> Iterator[tuple[bytes | IO[bytes], str]]:
    """The document and its name.

    Raises:
        InvalidRequest: there is no such file, or it is no document at all.
    """
    if not isinstance(source, str | Path):
        yield documents.readable(source), shown_name(name or "")
        return
    path = Path(source)
    with documents.opened(path) as file:
        yield file, shown_name(path.name if name is None else name)
