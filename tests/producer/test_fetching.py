"""The way out: what it refuses to touch, what it fetches, and when it gives up."""

from __future__ import annotations

import gzip
import io
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from producer.errors import FetchFailed, FetchForbidden, InvalidRequest, OcrpoolError, TooLarge
from producer.fetching import MAX_REDIRECTS, Fetcher
from producer.settings import Settings
from tests.http_site import Asked, Site, reply

DOCUMENT = b"%PDF-1.7 fetched"
PUBLIC = "93.184.216.34"


class Names:
    """A name server: each name has a list of answers, one a question, the last one again and again."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.questions: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.questions.append(host)
        if host not in self.answers:
            raise OSError(None, "Name or service not known")
        found = self.answers[host]
        return found.pop(0) if len(found) > 1 else found[0]


@pytest.fixture
def site() -> Iterator[Site]:
    """What must not be touched, and answers whatever touches it."""
    with Site(reply(200, DOCUMENT)) as site:
        yield site


def fetcher(settings: Settings, names: Names | None = None, **changed: object) -> Fetcher:
    return Fetcher(settings.model_copy(update=changed), resolver=names or Names())


def inner(settings: Settings, names: Names | None = None, **changed: object) -> Fetcher:
    """One that may reach this machine."""
    return fetcher(settings, names, fetch_allow=("127.0.0.0/8",), **changed)


def fetched(fetcher: Fetcher, url: str) -> bytes:
    file = io.BytesIO()
    fetcher.get(url, file)
    return file.getvalue()


INWARD = [
    *("https://127.0.0.1:{port}/", "http://127.0.0.1:{port}/", "https://localhost:{port}/", "https://[::1]:{port}/"),
    *("https://2130706433:{port}/", "https://0x7f.1:{port}/", "https://0177.0.0.1:{port}/", "https://127.1:{port}/"),
    *("https://[::ffff:127.0.0.1]:{port}/", "https://[::7f00:1]:{port}/", "https://[64:ff9b::7f00:1]:{port}/"),
    *("https://[2002:7f00:1::]:{port}/", "https://0.0.0.0:{port}/", "https://inward.example:{port}/"),
    *("https://mixed.example:{port}/", "https://mapped.example:{port}/", "http://public.example:{port}/"),
    *("https://user@inward.example:{port}/", "https://user:word@public.example/", "https://public.example:22/"),
    *("https://public.example:0/", "https://public.example:70000/", "ftp://public.example/", "file:///etc/passwd"),
    *(
        "https://\uff11\uff12\uff17.0.0.1:{port}/",
        "https://a\x00b/",
        "https://[::1",
        "gopher://127.0.0.1:{port}/_x",
        "//127.0.0.1:{port}/",
        "127.0.0.1:{port}",
        "https://169.254.169.254/latest/",
    ),
]
NAMES = {
    "localhost": [["127.0.0.1"]],
    "inward_example": [["127.0.0.1"]],
    "mixed_example": [[PUBLIC, "127.0.0.1"]],
    "mapped_example": [["::ffff:127.0.0.1"]],
    "public_example": [[PUBLIC]],
}


@pytest.mark.parametrize("url", INWARD)
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_inner_address_is_refused_and_not_one_byte_reaches_it(
    settings: Settings, site: Site, url: str, method: str
) -> None:
    out = fetcher(settings, Names(**NAMES))
    url = url.format(port=site.port)
    with pytest.raises(FetchForbidden) as refused:
        fetched(out, url) if method == "get" else out.post(url, {}, b"body", timeout_s=5)
    assert site.connections == 0
    assert "127.0.0.1" not in str(refused.value) or "127.0.0.1" in url, "it tells what a name of the inner network is"


def test_a_long_address_is_not_looked_at(settings: Settings) -> None:
    with pytest.raises(InvalidRequest):
        fetched(fetcher(settings), "https://public.example/" + "a" * 3000)


def test_a_name_is_asked_for_once_a_request_whatever_it_is_later(settings: Settings, site: Site) -> None:
    # Given a name that moves inward as soon as it was asked for
    with Site(reply(200, b"secret")) as secret:
        names = Names(rebinding_example=[["127.0.0.1"], ["127.0.0.2"]])
        out = fetcher(settings, names, fetch_allow=("127.0.0.1/32",))
        # When it is fetched twice
        assert fetched(out, f"http://rebinding.example:{site.port}/") == DOCUMENT
        # Then the first time went where the name was when it was checked, and the second nowhere
        assert names.questions == ["rebinding.example"]
        with pytest.raises(FetchForbidden):
            fetched(out, f"http://rebinding.example:{secret.port}/")
        assert (site.connections, secret.connections) == (1, 0)


def test_proxies_of_the_environment_are_not_used(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(reply(502)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert fetched(inner(settings), f"http://127.0.0.1:{site.port}/") == DOCUMENT
    assert proxy.connections == 0


def test_what_is_sent_says_nothing_of_this_machine(settings: Settings, site: Site) -> None:
    fetched(inner(settings, Names(files_example=[["127.0.0.1"]])), f"http://files.example:{site.port}/a%20b?c=d#e")
    [asked] = site.asked
    assert (asked.method, asked.path) == ("GET", "/a%20b?c=d")
    assert asked.headers == {
        "host": f"files.example:{site.port}",
        "user-agent": "ocrpool",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that this machine trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


def serving(certificate: trustme.LeafCert, names: list[str]) -> ssl.SSLContext:
    """A server's side that notes the name that each client asks for."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    tls.sni_callback = lambda _, name, __: names.append(name)
    return tls


def test_the_pinned_connection_keeps_the_name_for_tls_and_for_the_site(
    settings: Settings, authority: trustme.CA
) -> None:
    asked_for: list[str] = []
    with Site(reply(200, DOCUMENT), serving(authority.issue_cert("files.example"), asked_for)) as site:
        out = inner(settings, Names(files_example=[["127.0.0.1"]]))
        assert fetched(out, f"https://files.example:{site.port}/") == DOCUMENT
    assert asked_for == ["files.example"]
    assert site.asked[0].headers["host"] == f"files.example:{site.port}"


@pytest.mark.parametrize("trusted", [True, False], ids=["another name", "unknown authority"])
def test_a_certificate_that_does_not_prove_the_name_ends_it(
    settings: Settings, authority: trustme.CA, trusted: bool
) -> None:
    certificate = authority.issue_cert("evil.example") if trusted else trustme.CA().issue_cert("files.example")
    with Site(reply(200, DOCUMENT), serving(certificate, [])) as site:
        out = inner(settings, Names(files_example=[["127.0.0.1"]]))
        with pytest.raises(FetchFailed, match="certificate"):
            fetched(out, f"https://files.example:{site.port}/")
    assert not site.asked


def test_a_redirect_is_followed_and_its_relative_address_too(settings: Settings, site: Site) -> None:
    def answer(asked: Asked) -> Sequence[bytes]:
        if asked.path == "/old/a":
            return list(reply(302, b"moved", "Location: ../new/b")(asked))
        return list(reply(200, DOCUMENT)(asked))

    site.answer = answer
    assert fetched(inner(settings), f"http://127.0.0.1:{site.port}/old/a") == DOCUMENT
    assert [asked.path for asked in site.asked] == ["/old/a", "/new/b"]


@pytest.mark.parametrize(
    "location", ["https://127.0.0.2:{port}/", "https://inward.example:{port}/", "file:///etc/passwd", "http://0x7f.1/"]
)
def test_a_redirect_inward_is_refused_and_not_one_byte_follows(settings: Settings, site: Site, location: str) -> None:
    with Site(reply(200, b"secret")) as secret:
        site.answer = reply(307, b"", "Location: " + location.format(port=secret.port))
        out = fetcher(settings, Names(inward_example=[["10.0.0.7"]]), fetch_allow=("127.0.0.1/32",))
        with pytest.raises(FetchForbidden):
            fetched(out, f"http://127.0.0.1:{site.port}/")
    assert secret.connections == 0


def test_redirects_have_an_end(settings: Settings, site: Site) -> None:
    site.answer = reply(301, b"", "Location: /again")
    with pytest.raises(FetchFailed, match="redirects"):
        fetched(inner(settings), f"http://127.0.0.1:{site.port}/")
    assert len(site.asked) == 1 + MAX_REDIRECTS


def endless(_: Asked) -> Iterator[bytes]:
    """A body that announces no size and never ends."""
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"2710\r\n" + bytes(10_000) + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(200, bytes(100_001)), TooLarge),
        (lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"], TooLarge),
        (endless, TooLarge),
        (reply(200, gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"), FetchFailed),
        (reply(404), FetchFailed),
        (reply(206, DOCUMENT), FetchFailed),
        (lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"], FetchFailed),
        (lambda _: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"], FetchFailed),
        (lambda _: [b"SSH-2.0-OpenSSH_9.9\r\n"], FetchFailed),
        (lambda _: [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000], FetchFailed),
        (lambda _: [], FetchFailed),
    ],
    ids=["large", "announced", "endless", "bomb", "404", "206", "short", "unfinished", "ssh", "headers", "nothing"],
)
def test_an_answer_that_is_not_a_document(
    settings: Settings, site: Site, answer: Callable[[Asked], Sequence[bytes]], error: type[OcrpoolError]
) -> None:
    site.answer = answer
    with pytest.raises(error):
        fetched(inner(settings, max_document_bytes=100_000), f"http://127.0.0.1:{site.port}/")


def test_a_site_that_drips_is_left_when_the_time_is_over(settings: Settings, site: Site) -> None:
    left = threading.Event()

    def drip(_: Asked) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        try:
            while not left.wait(0.02):
                yield b"x"
        finally:
            left.set()  # The client has hung up, in the middle of a drop.

    site.answer = drip
    with pytest.raises(FetchFailed, match=r"too slow|did not come whole"):
        fetched(inner(settings, fetch_timeout_s=0.3), f"http://127.0.0.1:{site.port}/")
    assert left.wait(10)


def test_a_name_server_that_says_nothing_is_left_too(settings: Settings) -> None:
    asleep = threading.Event()

    def silent(host: str, port: int) -> Sequence[str]:
        asleep.wait(30)
        return []

    out = Fetcher(settings.model_copy(update={"fetch_timeout_s": 0.2}), resolver=silent)
    with pytest.raises(FetchFailed, match="name server"):
        fetched(out, "https://public.example/")
    asleep.set()


def test_a_name_that_nobody_knows_and_a_closed_port_fail(settings: Settings) -> None:
    with pytest.raises(FetchFailed, match="no address"):
        fetched(fetcher(settings), "https://unknown.example/")
    with Site(reply()) as gone:
        pass
    with pytest.raises(FetchFailed):
        fetched(inner(settings), f"http://127.0.0.1:{gone.port}/")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda _: [b"SSH-2.0-OpenSSH_9.9\r\n"], "files.example gives no whole answer in HTTP."),
        (lambda _: [b"HTTP/1.1 200 OK\r\nA\x00b: c\r\n\r\n"], "files.example gives no whole answer in HTTP."),
        (lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"], "files.example gives no whole answer in HTTP."),
        (lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], "files.example gives no whole answer in HTTP."),
        (lambda _: [], "files.example gives no whole answer in HTTP."),
    ],
    ids=["ssh", "header", "length", "short", "nothing"],
)
def test_who_answers_otherwise_is_told_of_in_plain_words(
    settings: Settings, site: Site, answer: Callable[[Asked], Sequence[bytes]], sentence: str
) -> None:
    site.answer = answer
    with pytest.raises(FetchFailed) as failed:
        fetched(inner(settings, Names(files_example=[["127.0.0.1"]])), f"http://files.example:{site.port}/")
    assert str(failed.value) == sentence


def test_who_cannot_be_reached_is_told_of_in_plain_words(settings: Settings, authority: trustme.CA) -> None:
    def refusal(url: str) -> str:
        with pytest.raises(FetchFailed) as failed:
            fetched(inner(settings, Names(files_example=[["127.0.0.1"]])), url)
        return str(failed.value)

    with Site(reply()) as gone:
        pass
    assert refusal(f"http://files.example:{gone.port}/") == "files.example cannot be reached: Connection refused."
    with Site(reply(), serving(authority.issue_cert("evil.example"), [])) as evil:
        told = refusal(f"https://files.example:{evil.port}/")
    assert told.startswith("files.example cannot be reached: its certificate is not accepted (Hostname mismatch, ")
    assert "_ssl" not in told
    refusing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    refusing.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
    with Site(reply(), refusing) as refusing_site:
        told = refusal(f"https://files.example:{refusing_site.port}/")
    assert told == "files.example cannot be reached: it does not speak TLS as it should."
    told = refusal(f"https://{'a' * 64}.example/")
    assert "codec" not in told
