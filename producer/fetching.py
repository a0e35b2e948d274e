"""The one way out: requests to addresses that others have named, so that none of them reaches an inner network.

A name is resolved once; each of its addresses is checked, and one of them is connected to, with the name kept for TLS
and `Host`. So a name that is resolved differently a moment later changes nothing. Redirects are checked like the first
address. Proxies, cookies and credentials of this machine are never used.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any
from urllib.parse import unquote

import httpcore
import httpx

from producer.addresses import AllowList, literal, normal, resolved
from producer.errors import FetchFailed, FetchForbidden, InvalidRequest, TooLarge
from producer.escaping import NAME_CHARS, shown_name
from producer.settings import Settings

CONNECT_S = 5.0
#: Longest silence of the other side.
IDLE_S = 15.0
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
#: Those of HTTP, and those that no service of old has.
_PORTS = frozenset((80, 443))
_FIRST_FREE_PORT = 1024
MAX_URL_CHARS = 2048

#: Gives a host's addresses, as `socket.getaddrinfo` does. Raises OSError.
Resolver = Callable[[str, int], Sequence[str]]


def system_resolver(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Target:
    """A URL that may be asked for, as far as it tells by itself."""

    url: httpx.URL
    host: str
    port: int
    plain: bool

    @classmethod
    def of(cls, text: str | httpx.URL, allowed: AllowList) -> Target:
        """Check all that can be without a name server.

        Raises:
            FetchForbidden: it is no URL, its scheme, host or port is not one that is fetched from, or it carries
                credentials.
        """
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise FetchForbidden("The address is no URL that is reached.") from error
        host, plain = url.raw_host.decode("ascii"), url.scheme == "http"
        if url.scheme not in ("https", "http") or not host:
            raise FetchForbidden("Only https:// addresses are reached.")
        if url.userinfo:
            raise FetchForbidden("An address must not carry a user name or password.")
        port = (80 if plain else 443) if url.port is None else url.port
        if port not in _PORTS and not _FIRST_FREE_PORT <= port <= 65_535:
            raise FetchForbidden(f"Port {port} must not be reached; 443, and ports from {_FIRST_FREE_PORT} on, may.")
        try:
            address = literal(host)
        except ValueError as error:
            raise FetchForbidden(f"{host} is neither a host name nor an address in its usual form.") from error
        target = cls(url, host, port, plain)
        if address is not None:
            target.check([str(address)], allowed)
        elif plain and normal(host) not in allowed.hosts and not allowed.networks:
            raise FetchForbidden(_refusal(host, plain))
        return target

    def check(self, addresses: Iterable[str], allowed: AllowList) -> None:
        """Raises `FetchForbidden` unless each address may be connected to: which one is chosen must not matter."""
        for address in addresses:
            if not allowed.permits(self.host, resolved(address), plain=self.plain):
                raise FetchForbidden(_refusal(self.host, self.plain))

    @property
    def origin(self) -> str:
        """Host and port, the same however the address spells them."""
        return f"{normal(self.host)}:{self.port}"

    @property
    def name(self) -> str:
        """What the document at this address may be called."""
        return shown_name(unquote(self.url.raw_path.decode("ascii").partition("?")[0]))[:NAME_CHARS]


def _refusal(host: str, plain: bool) -> str:
    # Which address it has is not told: names of inner networks are nobody's business.
    reason = "by plain http://" if plain else "at an address that is not a public one"
    return f"{host} must not be reached {reason} (OCRPOOL_FETCH_ALLOW lists exceptions)."


@dataclass(frozen=True)
class Answer:
    """What an endpoint said to a `post`; its body is not read. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]


class Deadline:
    """The end of one request, and of all that it waits for."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._end = clock() + timeout_s

    def left_s(self, most: float) -> float:
        """Time that the next step has. Raises `FetchFailed` when there is none."""
        left = self._end - self._clock()
        if left <= 0:
            raise FetchFailed(f"The answer did not come whole within {self._timeout_s:g} s.")
        return min(left, most)


class Fetcher:
    """Sends requests to addresses that others have named. Safe to share between threads.

    Each method raises:
        InvalidRequest: the address is too long.
        FetchForbidden: the address, or one that it redirects to, must not be reached; nothing was sent there.
        FetchFailed: it cannot be reached, is too slow or does not answer as it should.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: Resolver = system_resolver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._allowed = AllowList.parse(settings.fetch_allow)
        self._resolver = resolver
        self._clock = clock

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Verifies against certifi's authorities, or those of `SSL_CERT_FILE`."""
        return httpx.create_ssl_context()

    def target(self, url: str) -> Target:
        """The URL, checked as far as it can be without a name server."""
        if len(url) > MAX_URL_CHARS:
            raise InvalidRequest(f"An address has at most {MAX_URL_CHARS} characters.")
        return Target.of(url, self._allowed)

    def get(self, url: str, file: IO[bytes]) -> None:
        """Write the document at the address to the file.

        Raises, further:
            TooLarge: it has more bytes than `max_document_bytes`; the rest is not read.
            OSError: the file takes no more.
        """
        target = self.target(url)
        deadline = Deadline(self._settings.fetch_timeout_s, self._clock)
        for _ in range(1 + MAX_REDIRECTS):
            next_url = self._download(target, file, deadline)
            if next_url is None:
                return
            target = Target.of(next_url, self._allowed)
        raise FetchFailed(f"The address redirects more than {MAX_REDIRECTS} times.")

    def _download(self, target: Target, file: IO[bytes], deadline: Deadline) -> httpx.URL | None:
        """Write the document to the file, or return where it has gone."""
        most = self._settings.max_document_bytes
        too_large = TooLarge(f"The document at {target.host} has more than {most:,} bytes.")
        # What is not compressed cannot be larger than what comes.
        with self._exchange("GET", target, {"Accept-Encoding": "identity"}, b"", deadline) as response:
            headers = _headers(response)
            if response.status in _REDIRECTS and "location" in headers:
                try:
                    return target.url.join(headers["location"])
                except httpx.InvalidURL as error:
                    raise FetchFailed(f"{target.host} redirects to what is no URL.") from error
            if response.status != 200:
                raise FetchFailed(f"{target.host} answered {response.status}.")
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise FetchFailed(f"{target.host} compressed its answer without being asked to.")
            if int(headers.get("content-length", "0")) > most:
                raise too_large
            seen = 0
            for chunk in response.iter_stream():
                seen += len(chunk)
                if seen > most:
                    raise too_large
                file.write(chunk)
        return None

    def post(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """Send the body, and return what the endpoint answers; a redirect is an answer like others."""
        deadline = Deadline(timeout_s, self._clock)
        with self._exchange("POST", self.target(url), headers, body, deadline) as response:
            return Answer(response.status, _headers(response))

    @contextmanager
    def _exchange(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> Iterator[httpcore.Response]:
        named = {"Host": target.url.netloc.decode("ascii"), "User-Agent": "ocrpool", "Accept": "*/*", **headers}
        url = httpcore.URL(scheme=target.url.raw_scheme, host=target.host, port=target.port, target=target.url.raw_path)
        network = _Guarded(target, self._allowed, self._resolver, deadline)
        try:
            # A pool of its own for each request: a connection that was checked for one serves no other.
            with (
                httpcore.ConnectionPool(
                    ssl_context=None if target.plain else self._tls, network_backend=network
                ) as pool,
                pool.stream(method, url, headers=list(named.items()), content=body or None) as response,
            ):
                yield response
        except httpcore.TimeoutException as error:
            raise FetchFailed(f"{target.host} is too slow.") from error
        except httpcore.ProtocolError as error:
            raise FetchFailed(f"{target.host} gives no whole answer in HTTP.") from error
        except httpcore.NetworkError as error:
            raise FetchFailed(f"{target.host} cannot be reached: {_reason(error)}.") from error


def _reason(error: httpcore.NetworkError) -> str:
    """Why, in the system's words; those of TLS and of Python are for programmers."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({cause.verify_message.rstrip('.')})"
    if isinstance(cause, ssl.SSLError):
        return "it does not speak TLS as it should"
    return (isinstance(cause, OSError) and cause.strerror) or "the connection is lost"


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


class _Guarded(httpcore.NetworkBackend):
    """Connects to the target's checked addresses and nowhere else."""

    def __init__(self, target: Target, allowed: AllowList, resolver: Resolver, deadline: Deadline) -> None:
        self._target = target
        self._allowed = allowed
        self._resolver = resolver
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = list(dict.fromkeys(self._resolve(host, port)))
        self._target.check(addresses, self._allowed)
        failure: Exception = FetchFailed(f"{host} has no address.")
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    str(resolved(address)), port, self._deadline.left_s(CONNECT_S), None, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Timed(stream, self._deadline)
        raise failure

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        if (address := literal(host)) is not None:
            return [str(address)]
        found = _within(self._deadline.left_s(CONNECT_S), lambda: self._resolver(host, port))
        if isinstance(found, OSError):
            raise FetchFailed(f"{host} has no address: {found.strerror or found}.")
        return found


def _within(timeout_s: float, resolve: Callable[[], Sequence[str]]) -> Sequence[str] | OSError:
    """What the resolver gives or raises. It knows no time limit of its own, so it is left to itself after this one."""
    given: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def run() -> None:
        try:
            given.put(resolve())
        except (OSError, UnicodeError) as error:
            given.put(error if isinstance(error, OSError) else OSError("it is no name of a host"))

    threading.Thread(target=run, name="resolver", daemon=True).start()
    try:
        return given.get(timeout=timeout_s)
    except queue.Empty:
        return OSError("the name server is too slow")


class _Timed(httpcore.NetworkStream):
    """A connection on which nothing takes longer than the request has left."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s(IDLE_S))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s(IDLE_S))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s(CONNECT_S))
        return _Timed(secure, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
