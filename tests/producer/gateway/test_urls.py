"""Documents that the pool fetches itself, and addresses that it is told to report to."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from producer.api_keys import ApiKeys
from producer.blobs import FolderStore
from producer.gateway.fetches import OF_ORIGIN, OF_TENANT, PLACES
from producer.ledger import Ledger
from producer.settings import Settings
from tests.http_site import Asked, Reply, Site, reply
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, submit, wait_until
from tests.producer.gateway.test_hostile_clients import begin_upload


@pytest.fixture
def settings(settings: Settings) -> Settings:
    allowed = tuple(f"127.0.0.{number}" for number in (1, *range(3, 12)))
    return settings.model_copy(update={"fetch_allow": allowed, "fetch_timeout_s": 5})


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(reply(200, PDF)) as site:
        yield site


def test_a_document_is_fetched_from_its_address(http: httpx.Client, settings: Settings, site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}/in/Rechnung%20%C3%BC.pdf?token=1"
    answer = http.post("/v1/jobs", json={"url": url, "options": {"lane": "bulk"}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["name"] == "Rechnung ü.pdf"
    assert FolderStore(settings.blob_dir).get(job["id"]) == PDF
    assert http.post("/v1/jobs", json={"url": url, "name": "mine.pdf"}).json()["name"] == "mine.pdf"


def test_an_inner_address_is_forbidden(http: httpx.Client) -> None:
    with Site(reply(200, PNG)) as inner:
        for url in (
            f"https://127.0.0.2:{inner.port}/",
            f"http://127.0.0.2:{inner.port}/",
            "https://[::1]/",
            "https://0/",
        ):
            problem = assert_problem(http.post("/v1/jobs", json={"url": url}), 422, "fetch_forbidden")
            assert problem["detail"].startswith("url: ")
    assert inner.connections == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(404), (422, "fetch_failed")),
        (reply(200, bytes(200_000)), (413, "too_large")),
        (reply(200, b"<html>"), (415, "unsupported_media_type")),
        (reply(302, b"", "Location: https://127.0.0.2/"), (422, "fetch_forbidden")),
    ],
    ids=["404", "large", "html", "inward"],
)
def test_what_cannot_be_fetched_is_told_and_leaves_nothing(
    http: httpx.Client, settings: Settings, site: Site, answer: Reply, expected: tuple[int, str]
) -> None:
    site.answer = answer
    told = http.post("/v1/jobs", json={"url": f"http://127.0.0.1:{site.port}/secret-path"})
    problem = assert_problem(told, *expected)
    assert "secret-path" not in problem["detail"]
    assert not [path for path in settings.blob_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("body", [{}, {"url": "https://a.example/", "document": "AAAA"}, {"url": "s3:/x"}, {"url": 7}])
def test_one_document_by_one_way(http: httpx.Client, body: dict[str, object]) -> None:
    assert_problem(http.post("/v1/jobs", json=body), 422, "invalid_request")


def drip(asked: Asked) -> Iterator[bytes]:
    """A document that is on its way for as long as it is waited for."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"
    while True:
        yield b"x"
        time.sleep(0.05)


class Slow:
    """Answers once it may."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, asked: Asked) -> Iterator[bytes]:
        assert self.go_on.wait(30)
        yield from reply(200, PDF)(asked)


@pytest.fixture
def slow() -> Iterator[Site]:
    """A site of many names that keeps all waiting; each address of loopback is one to who asks for it."""
    with Site(answer := Slow(), host="0.0.0.0") as site:
        yield site
        answer.go_on.set()


def test_slow_sites_keep_no_upload_from_coming_in(http: httpx.Client, slow: Site) -> None:
    # Given as many fetches as the gateway makes at a time, and more, all of which wait for their sites
    urls = [f"http://127.0.0.{number % 5 + 3}:{slow.port}/" for number in range(PLACES + 4)]
    with ThreadPoolExecutor(len(urls)) as clients:
        fetches = [clients.submit(http.post, "/v1/jobs", json={"url": url}) for url in urls]
        wait_until(lambda: len(slow.asked) == PLACES)
        # When others upload
        submit(http)
        document = base64.b64encode(PNG).decode()
        assert http.post("/v1/jobs", json={"document": document}).status_code == 202
        # Then they are not kept waiting, and the fetches come to their end as well
        assert len(slow.asked) == PLACES
        slow.answer.go_on.set()  # type: ignore[attr-defined]
        assert {fetch.result().status_code for fetch in fetches} == {202}


def test_a_site_that_drips_keeps_no_other_document_from_being_fetched(
    settings: Settings, served: Served, site: Site
) -> None:
    served.gateway.producer.fetches.patience_s = 1
    with Site(drip) as dripping, ThreadPoolExecutor(3 * PLACES) as clients:
        # Given more documents of a site that drips than the gateway fetches at a time
        slow = {"url": f"http://127.0.0.1:{dripping.port}/"}
        asking = [clients.submit(served.http.post, "/v1/jobs", json=slow) for _ in range(3 * PLACES)]
        wait_until(lambda: len(dripping.asked) == PLACES // OF_ORIGIN)
        # When others are asked for, then they are fetched
        for _ in range(3):
            good = served.http.post("/v1/jobs", json={"url": f"http://127.0.0.1:{site.port}/"}, timeout=10)
            assert good.status_code == 202, good.text
        # And who cannot be served in a while is told so, while the others go on until their time is over
        wait_until(lambda: sum(one.done() for one in asking) >= 3 * PLACES - PLACES // OF_ORIGIN)
        refused = [one.result() for one in asking if one.done()]
        problem = assert_problem(refused[0], 503, "unavailable")
        assert f"127.0.0.1:{dripping.port}" in problem["detail"]
        assert {one.status_code for one in refused} == {503}
        assert len(dripping.asked) == PLACES // OF_ORIGIN
        wait_until(lambda: all(one.done() for one in asking))
        assert sorted({one.result().status_code for one in asking}) == [422, 503]


def test_who_has_hung_up_waits_no_longer_and_is_not_fetched_for(served: Served, slow: Site) -> None:
    fetches = served.gateway.producer.fetches
    fetches.patience_s = 60
    body = {"url": f"http://127.0.0.1:{slow.port}/"}
    with ThreadPoolExecutor(PLACES) as clients:
        asking = [clients.submit(served.http.post, "/v1/jobs", json=body) for _ in range(PLACES // OF_ORIGIN)]
        wait_until(lambda: len(slow.asked) == len(asking))
        with ExitStack() as impatient:
            for _ in range(5):
                content = json.dumps(body).encode()
                head = b"Content-Type: application/json\r\n"
                impatient.enter_context(begin_upload(served.url, head, content, len(content)))
            wait_until(lambda: fetches.waiting == 5)
        wait_until(lambda: fetches.waiting == 0)
        slow.answer.go_on.set()  # type: ignore[attr-defined]
        assert {one.result().status_code for one in asking} == {202}
    assert len(slow.asked) == PLACES // OF_ORIGIN


def test_a_tenant_leaves_places_to_others(settings: Settings, ledger: Ledger, slow: Site, site: Site) -> None:
    keys = ApiKeys(ledger)
    with Served(settings.model_copy(update={"api_keys": "on"})) as served, ThreadPoolExecutor(PLACES) as clients:
        served.gateway.producer.fetches.patience_s = 1
        greedy, other = ({"Authorization": f"Bearer {keys.create(name, name)[1]}"} for name in ("greedy", "other"))

        def ask(url: str, headers: dict[str, str]) -> httpx.Response:
            return served.http.post("/v1/jobs", json={"url": url}, headers=headers)

        # Given a tenant whose documents come from many slow sites
        urls = [f"http://127.0.0.{number % 8 + 3}:{slow.port}/" for number in range(PLACES)]
        asking = [clients.submit(ask, url, greedy) for url in urls]
        wait_until(lambda: len(slow.asked) == PLACES // OF_TENANT)
        # When it asks for one more, then it is told to come back, and another tenant is not
        fast = f"http://127.0.0.1:{site.port}/"
        assert "this tenant" in assert_problem(ask(fast, greedy), 503, "unavailable")["detail"]
        assert ask(fast, other).status_code == 202
        slow.answer.go_on.set()  # type: ignore[attr-defined]
        assert [one.result().status_code for one in asking].count(202) == PLACES // OF_TENANT


def test_a_webhook_address_is_looked_at_when_the_document_comes_in(http: httpx.Client, settings: Settings) -> None:
    def send(url: str) -> httpx.Response:
        return http.post("/v1/jobs", files={"file": ("a.png", PNG)}, data={"webhook_url": url})

    problem = assert_problem(send("https://hooks.example/"), 422, "invalid_request")
    assert problem["detail"].startswith("webhook_url: ")
    assert "OCRPOOL_WEBHOOK_SECRETS" in problem["detail"]
