"""Which documents are read alike: their digests for the cache of the ledger."""

from __future__ import annotations

import hashlib
import json

from producer.job import ReadOptions

#: Options that change nothing in what is read.
_WITHOUT_EFFECT = {"lane", "deadline_s", "webhook_url", "cache", "visualize"}


def document_digest(content: str, options: ReadOptions, tenant: str) -> str:
    """The same for the same bytes, given as a digest, of one tenant's under the same options.

    A tenant learns nothing of what another one has handed in: neither by what it is given, nor by how soon.
    """
    return _digest("document", tenant, content, _effective(options, _WITHOUT_EFFECT))


def page_digest(pixels: str, size: tuple[int, int], options: ReadOptions, tenant: str, reader: str) -> str:
    """The same for the same pixels, given as a digest, however many documents they are in, read in one manner
    (`Ledger.announce`)."""
    return _digest("page", tenant, pixels, list(size), _effective(options, _WITHOUT_EFFECT | {"pages"}), reader)


def _effective(options: ReadOptions, without: set[str]) -> dict[str, object]:
    return options.model_dump(mode="json", exclude=without)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
