"""Addresses that carry their own permission: signed, good for a while, fetched without a bearer token."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

from producer.errors import Unauthorized
from producer.ledger import Ledger
from producer.settings import Settings


class SignedUrls:
    """Signs the paths of one pool and checks them. Blocks where the key comes from the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock

    def signer(self, base_url: str) -> Callable[[str], str]:
        """Makes absolute URLs out of paths of the gateway; `base_url` is where the client has reached it.

        Raises:
            Unavailable: the key cannot be read.
        """
        base_url = (self._settings.public_url or base_url).rstrip("/")
        expires, key = int(self._clock() + self._settings.signed_url_ttl_s), self._key()
        return lambda path: f"{base_url}{path}?expires={expires}&signature={_signature(key, path, expires)}"

    def check(self, path: str, expires: int, signature: str) -> None:
        """Let a signed request in.

        Raises:
            Unauthorized: the signature is not of this path and time, or the time is over.
            Unavailable: the key cannot be read.
        """
        # As bytes: a stranger's text may have letters that are compared only so.
        if not hmac.compare_digest(_signature(self._key(), path, expires).encode(), signature.encode()):
            raise Unauthorized("The address is not one that this pool has signed.")
        if self._clock() >= expires:
            raise Unauthorized("The address has expired: ask for the job again, which gives a new one.")

    def _key(self) -> bytes:
        return self._settings.signing_key.encode() or self._ledger.signing_key()


def _signature(key: bytes, path: str, expires: int) -> str:
    return hmac.new(key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
