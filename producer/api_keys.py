"""API keys: `ocrp_<id>_<secret>`. The id is shown in lists; the secret is shown once and kept as a digest alone."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import cast

from producer.errors import InvalidRequest, NotFound
from producer.job import Contract, Tenant
from producer.ledger import Ledger
from producer.scripts import reachable

_KEY = re.compile(r"ocrp_([0-9a-f]{12})_([0-9a-f]{32})")
#: A key's last use is known to this many seconds, so that it is not written with each request.
USE_KNOWN_TO_S = 60
_NOBODYS = "0" * 64


class ApiKey(Contract):
    """What is kept of a key. Times are seconds since the epoch."""

    id: str
    name: str
    tenant: Tenant
    #: SHA-256 of the secret. A slow hash is for what people choose: 128 random bits cannot be tried out, and each
    #: request would pay for it.
    digest: str
    created_at: int

    def opens(self, key: str) -> bool:
        """Whether `key` is this one; takes as long whether it is or not."""
        return hmac.compare_digest(_digest(key), self.digest)


def key_id(key: str) -> str | None:
    """The id within a key; None for what has not the form of one."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


class ApiKeys:
    """The keys of one pool: hashes `apikeys`, and `apikeys_used` with the times of their last uses."""

    def __init__(self, ledger: Ledger) -> None:
        self._redis = ledger.redis
        self._keys, self._used = f"{ledger.namespace}:apikeys", f"{ledger.namespace}:apikeys_used"

    def create(self, name: str, tenant: Tenant) -> tuple[ApiKey, str]:
        """A new key and its text, which is nowhere to be found afterwards. Raises `InvalidRequest` without a name."""
        if not name.strip():
            raise InvalidRequest("A key needs a name, by which the list tells it from others.")
        id, secret = secrets.token_hex(6), secrets.token_hex(16)
        text = f"ocrp_{id}_{secret}"
        key = ApiKey(id=id, name=name, tenant=tenant, digest=_digest(text), created_at=int(time.time()))
        with reachable():
            self._redis.hset(self._keys, id, key.model_dump_json())
        return key, text

    def all(self) -> list[tuple[ApiKey, int | None]]:
        """Every key with the time of its last use, the oldest key first."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys)
            pipe.hgetall(self._used)
            keys, used = pipe.execute()
        found = [ApiKey.model_validate_json(record) for record in keys.values()]
        uses = {id.decode(): int(at) for id, at in used.items()}
        return [(key, uses.get(key.id)) for key in sorted(found, key=lambda key: (key.created_at, key.id))]

    def revoke(self, id: str) -> None:
        """Gateways refuse it within seconds. Raises `NotFound`."""
        with reachable(), self._redis.pipeline() as pipe:
            pipe.hdel(self._keys, id)
            pipe.hdel(self._used, id)
            revoked, _ = pipe.execute()
        if not revoked:
            raise NotFound(f"There is no API key {id}; `ocrpool keys list` shows those there are.")

    def find(self, key: str) -> ApiKey | None:
        """The key of this text; None if there is none."""
        id = key_id(key)
        if id is None:
            return None
        with reachable():
            record = cast("bytes | None", self._redis.hget(self._keys, id))
        known = ApiKey.model_validate_json(record) if record else None
        nobody = ApiKey(id=id, name="", tenant="", digest=_NOBODYS, created_at=0)
        return known if (known or nobody).opens(key) else None

    def used(self, key: ApiKey) -> None:
        """Note that the key is in use now."""
        with reachable():
            if self._redis.hexists(self._keys, key.id):
                self._redis.hset(self._used, key.id, int(time.time()) // USE_KNOWN_TO_S * USE_KNOWN_TO_S)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
