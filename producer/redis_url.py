"""What `OCRPOOL_REDIS_URL` says: a server, or the Sentinels that know its master. Clients are opened here alone."""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlparse

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

#: A Sentinel that takes longer to connect or answer is passed over for the next.
SENTINEL_TIMEOUT_S = 2.0
SENTINEL_PORT = 26379
#: Stands where a secret is not shown.
HIDDEN = "***"
#: What the query of a URL may hold.
_CREDENTIALS = ("sentinel_username", "sentinel_password")

_SCHEME = "redis+sentinel://"
_FORM = re.compile(
    r"redis\+sentinel://(?:(?P<user>[^@/:]*)(?::(?P<password>[^@/]*))?@)?(?P<hosts>[^@/?]+)"
    r"/(?P<master>[^/?]+)(?:/(?P<db>\d+))?/?(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>\d{1,5}))?")
_WRONG = (
    "the URL of a Redis server, such as redis://127.0.0.1:6379/0, or of its Sentinels, such as "
    f"{_SCHEME}host1:{SENTINEL_PORT},host2:{SENTINEL_PORT}/mymaster/0"
)


@dataclass(frozen=True)
class SentinelUrl:
    """`redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0?sentinel_password=...`

    User and password are those of the servers; the Sentinels' own stand in the query. All are percent-encoded.
    """

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises `ValueError`, which says what the URL should be."""
        found = _FORM.fullmatch(url)
        hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else []
        if found is None or None in hosts:
            raise ValueError(_WRONG)
        query = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
        if unknown := sorted(set(query) - set(_CREDENTIALS)):
            raise ValueError(f"{unknown[0]} is none of what may follow the `?`: {' and '.join(_CREDENTIALS)}")
        return cls(
            sentinels=tuple((host["v6"] or host["name"], int(host["port"] or SENTINEL_PORT)) for host in hosts if host),
            master=unquote(found["master"]),
            db=int(found["db"] or 0),
            username=unquote(found["user"] or "") or None,
            password=unquote(found["password"] or "") or None,
            **query,
        )

    @property
    def server_options(self) -> dict[str, Any]:
        return {"db": self.db, "username": self.username, "password": self.password}

    def sentinel_options(self, retry: Any) -> dict[str, Any]:
        """Of the client of each Sentinel. `retry` is no retry, of that client's kind: by default one that is away is
        asked again for seconds before the next one is."""
        return {
            "username": self.sentinel_username,
            "password": self.sentinel_password,
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
            "retry": retry,
        }

    @property
    def broker_url(self) -> str:
        """As kombu has it: a whole URL for each Sentinel."""
        login = ":".join(quote(part or "", safe="") for part in (self.username, self.password))
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.sentinels)
        return ";".join(f"sentinel://{login}@{host}/{self.db}" for host in hosts)


class _Sentinels(Sentinel):
    """The stock one moves a Sentinel that answered to the front of a list that all threads share; two of them at once
    can lose a Sentinel for good."""

    def discover_master(self, service_name: str) -> Any:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        address = Sentinel.discover_master(own, service_name)
        self.sentinels = own.sentinels
        return address


def names_sentinels(url: str) -> bool:
    return url.startswith(_SCHEME)


def check(url: str) -> None:
    """Raises `ValueError`, which says what the URL should be."""
    if names_sentinels(url):
        SentinelUrl.parse(url)
    elif urlparse(url).scheme not in ("redis", "rediss"):
        raise ValueError(_WRONG)


def without_passwords(url: str) -> str:
    """The URL as it may be shown."""
    url = re.sub(r"(?<=password=)[^&#]+", HIDDEN, url)
    return re.sub(r"^([^:/]+://[^:@/]*:).+@", rf"\1{HIDDEN}@", url)


def open_client(url: str, **options: Any) -> redis.Redis:
    """A client of the server, or of whichever is the master when a connection is made. Options are the client's."""
    if not names_sentinels(url):
        return redis.Redis.from_url(url, **options)
    named = SentinelUrl.parse(url)
    options = {"sentinel_kwargs": named.sentinel_options(_no_retry()), **named.server_options, **options}
    sentinels = _Sentinels(named.sentinels, **options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinels.master_for(named.master)  # type: ignore[no-untyped-call]
    return client


@asynccontextmanager
async def async_client(url: str, **options: Any) -> AsyncIterator[AsyncRedis]:
    """`open_client` for one task of an event loop; closed with the context."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.asyncio.sentinel import Sentinel as AsyncSentinel

    async with AsyncExitStack() as stack:
        if not names_sentinels(url):
            yield await stack.enter_async_context(aclosing(Redis.from_url(url, **options)))
            return
        named = SentinelUrl.parse(url)
        own = named.sentinel_options(AsyncRetry(NoBackoff(), 0))
        options = {"sentinel_kwargs": own, **named.server_options, **options}
        sentinels = AsyncSentinel(named.sentinels, **options)
        for sentinel in sentinels.sentinels:
            stack.push_async_callback(sentinel.aclose)
        yield await stack.enter_async_context(aclosing(sentinels.master_for(named.master)))


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """Celery's `broker_url`, and what belongs into its `broker_transport_options`."""
    if not names_sentinels(url):
        return url, {}
    named = SentinelUrl.parse(url)
    return named.broker_url, {"master_name": named.master, "sentinel_kwargs": named.sentinel_options(_no_retry())}


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)
