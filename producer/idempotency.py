"""A request that is sent twice under one key is one job: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from producer.errors import InvalidRequest
from producer.job import Job, ReadOptions, Tenant

#: Printable ASCII. As a structured field, which the draft asks for and few clients send, it stands in quotes.
_KEY = re.compile(r'"?([\x20-\x21\x23-\x7e]{1,255})"?')


def named(key: str, tenant: Tenant = "") -> str:
    """The name under which the ledger keeps the tenant's key: a digest, as a client may put anything into it.

    Raises:
        InvalidRequest: it is empty, too long, or not of printable ASCII characters.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidRequest("Idempotency-Key: 1 to 255 printable ASCII characters other than quotes.")
    return hashlib.sha256((f"{tenant}\n{found[1]}" if tenant else found[1]).encode()).hexdigest()


def part_of(name: str, number: int) -> str:
    """The name of the key of one of many documents that came under the key of that name."""
    return hashlib.sha256(f"{name} {number}".encode()).hexdigest()


def print_of_many(contents: Iterable[str], names: Iterable[str], options: ReadOptions) -> str:
    """The fingerprint of a request with many documents: their digests, their names and the options of all."""
    request = "\0".join((*contents, *names, options.model_dump_json(exclude={"cache"})))
    return hashlib.sha256(request.encode()).hexdigest()


@dataclass(frozen=True)
class IdempotencyKey:
    """A key and what it was used for."""

    name: str
    #: Digest of the document, its name and its options.
    fingerprint: str

    @classmethod
    def of(cls, name: str, content: str, job: Job) -> Self:
        """The key of that name (`named`, `part_of`), used for a job whose document has this digest."""
        request = f"{content}\0{job.name}\0{job.options.model_dump_json(exclude={'cache'})}"
        return cls(name, hashlib.sha256(request.encode()).hexdigest())
