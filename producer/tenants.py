"""Tenants: who share a pool and see nothing of each other. One comes to be with its first key or limit."""

from __future__ import annotations

import json
from typing import cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from producer.errors import InvalidRequest
from producer.job import Tenant
from producer.ledger import Ledger
from producer.limits import Limits
from producer.scripts import reachable

_NAME: TypeAdapter[str] = TypeAdapter(Tenant)


def tenant_named(name: str) -> Tenant:
    """Raises `InvalidRequest` if no tenant can have that name."""
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise InvalidRequest(
            f"{name!r} cannot be a tenant's name: up to 64 small letters, digits, `.`, `_` and `-`."
        ) from error


class Usage(BaseModel):
    """What a tenant has in the pool now, and what it may have."""

    model_config = ConfigDict(frozen=True)

    tenant: Tenant
    #: Pages of its unfinished jobs without an outcome; 1 for a document whose pages are not counted.
    queued_pages: int = 0
    unfinished_jobs: int = 0
    #: Its own limits; those that are None are the settings'.
    limits: Limits = Limits()


class Tenants:
    """The tenants of one pool."""

    def __init__(self, ledger: Ledger) -> None:
        self._redis = ledger.redis
        self._limits, self._load = f"{ledger.namespace}:tenants", f"{ledger.namespace}:load"

    def limits(self, tenant: Tenant) -> Limits:
        """The tenant's own limits."""
        with reachable():
            found = cast("bytes | None", self._redis.hget(self._limits, tenant))
        return Limits.model_validate_json(found) if found else Limits()

    def set_limits(self, tenant: Tenant, limits: Limits) -> None:
        """From now on, admissions are measured by these; without any, by the settings' alone."""
        chosen = limits.model_dump(exclude_none=True)
        with reachable():
            if chosen:
                self._redis.hset(self._limits, tenant, json.dumps(chosen))
            else:
                self._redis.hdel(self._limits, tenant)

    def usage(self, tenant: Tenant) -> Usage:
        """That of one tenant."""
        return next((usage for usage in self.all() if usage.tenant == tenant), Usage(tenant=tenant))

    def all(self) -> list[Usage]:
        """Every tenant that has unfinished jobs or limits of its own, by name."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._load)
            pipe.hgetall(self._limits)
            load, limits = pipe.execute()
        counts: dict[str, dict[str, int]] = {name.decode(): {} for name in limits}
        for field, number in load.items():
            what, _, tenant = field.decode().partition(" ")
            counts.setdefault(tenant, {})[what] = int(number)
        return [
            Usage(
                tenant=tenant,
                queued_pages=counts[tenant].get("pages", 0),
                unfinished_jobs=counts[tenant].get("jobs", 0),
                limits=Limits.model_validate_json(limits.get(tenant.encode(), b"{}")),
            )
            for tenant in sorted(counts)
        ]
