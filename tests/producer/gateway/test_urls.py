"""Documents that the pool fetches itself, and addresses that it is told to report to."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from producer.blobs import FolderStore
from producer.gateway.async_producer import FETCH_THREADS
from producer.settings import Settings
from tests.http_site import Asked, Reply, Site, reply
from tests.producer.gateway.serving import PDF, PNG, assert_problem, submit, wait_until


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"fetch_allow": ("127.0.0.1",)})


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


def test_slow_sites_keep_no_upload_from_coming_in(http: httpx.Client, settings: Settings, site: Site) -> None:
    # Given as many fetches as the gateway makes at a time, and more, all of which wait for their site
    go_on = threading.Event()

    def slow(asked: Asked) -> Iterator[bytes]:
        assert go_on.wait(30)
        yield from reply(200, PDF)(asked)

    site.answer = slow
    body = {"url": f"http://127.0.0.1:{site.port}/"}
    with ThreadPoolExecutor(2 * FETCH_THREADS) as clients:
        fetches = [clients.submit(http.post, "/v1/jobs", json=body) for _ in range(FETCH_THREADS + 4)]
        wait_until(lambda: len(site.asked) == FETCH_THREADS)
        # When others upload
        submit(http)
        document = base64.b64encode(PNG).decode()
        assert http.post("/v1/jobs", json={"document": document}).status_code == 202
        # Then they are not kept waiting, and the fetches come to their end as well
        assert len(site.asked) == FETCH_THREADS
        go_on.set()
        assert {fetch.result().status_code for fetch in fetches} == {202}


def test_a_webhook_address_is_looked_at_when_the_document_comes_in(http: httpx.Client, settings: Settings) -> None:
    def send(url: str) -> httpx.Response:
        return http.post("/v1/jobs", files={"file": ("a.png", PNG)}, data={"webhook_url": url})

    problem = assert_problem(send("https://hooks.example/"), 422, "invalid_request")
    assert problem["detail"].startswith("webhook_url: ")
    assert "OCRPOOL_WEBHOOK_SECRETS" in problem["detail"]
