"""Which documents are read alike: their digests for the cache of the ledger."""

from __future__ import annotations

import hashlib
import json
from typing import IO

from producer.job import ReadOptions

#: Options that change nothing in what is read.
_WITHOUT_EFFECT = {"lane", "deadline_s", "webhook_url", "cache", "visualize"}


def document_digest(source: bytes | IO[bytes], options: ReadOptions, tenant: str) -> str:
    """The same for the same bytes of one tenant's under the same options. An open file is read from its start, and
    stands there afterwards.

    A tenant learns nothing of what another one has handed in: neither by what it is given, nor by how soon.
    """
    if isinstance(source, bytes):
        content = hashlib.sha256(source)
    else:
        content = hashlib.file_digest(source, "sha256")  # type: ignore[arg-type]  # reading is all that it does
        source.seek(0)
    return _digest("document", tenant, content.hexdigest(), _effective(options, _WITHOUT_EFFECT))


def page_digest(pixels: str, size: tuple[int, int], options: ReadOptions, tenant: str, reader: str) -> str:
    """The same for the same pixels, given as a digest, however many documents they are in, read in one manner
    (`Ledger.announce`)."""
    return _digest("page", tenant, pixels, list(size), _effective(options, _WITHOUT_EFFECT | {"pages"}), reader)


def _effective(options: ReadOptions, without: set[str]) -> dict[str, object]:
    return options.model_dump(mode="json", exclude=without)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
