"""`POST /ocr` with JSON: PaddleX's serving API."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import pytest
from PIL import Image

from producer.embedded import Embedded
from producer.gateway import paddlex
from producer.gateway.state import Gateway
from producer.ledger import Ledger
from producer.producer import Producer
from producer.settings import Settings
from tests.documents import SAMPLES, character_f1, truth
from tests.producer.gateway.serving import PDF, PNG, Served, count_pages, read_pages, wait_until


def encoded(document: bytes) -> str:
    return base64.b64encode(document).decode()


def assert_refused(answer: httpx.Response, status: int, says: str) -> None:
    """Check that the error is one of PaddleX's."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["errorCode"] == status
    assert says in told["errorMsg"]
    assert told["logId"]


@pytest.fixture
def real(pool: Producer) -> Iterator[httpx.Client]:
    with Embedded(pool.settings.model_copy(update={"gateway_port": 0})) as parts:
        url = parts.start_gateway()
        with httpx.Client(base_url=url, timeout=60) as http:
            yield http


def test_it_reads_with_the_real_models(real: httpx.Client) -> None:
    receipt = SAMPLES / "receipt.jpg"
    asked = {"file": encoded(receipt.read_bytes()), "fileType": 1, "logId": "mine", "visualize": True}

    answer = real.post("/ocr", json=asked | {"useDocUnwarping": False, "textDetBoxThresh": 0.5}).json()

    assert (answer["logId"], answer["errorCode"], answer["errorMsg"]) == ("mine", 0, "Success")
    (page,) = answer["result"]["ocrResults"]
    assert character_f1("".join(page["prunedResult"]["rec_texts"]), truth(receipt)[0]) > 0.95
    assert page["prunedResult"]["text_det_params"]["box_thresh"] == 0.5
    assert base64.b64decode(page["ocrImage"]).startswith(b"\x89PNG")
    with Image.open(receipt) as picture:
        assert answer["result"]["dataInfo"] == {"width": picture.width, "height": picture.height, "type": "image"}


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"file": "no base64!"}, 422, "file: not valid base64."),
        ({"file": encoded(b"just text")}, 415, "neither a PDF nor"),
        ({"file": encoded(PNG + bytes(100_000))}, 413, "100000 bytes"),
        ({"file": "http://169.254.169.254/a.png"}, 422, "file: 169.254.169.254 must not be reached"),
        ({"file": "HTTP://169.254.169.254/a.png"}, 422, "file: 169.254.169.254 must not be reached"),
        ({"fileType": 0}, 422, "fileType: 0 is said, but the document is an image (1)."),
        ({"file": encoded(PDF), "fileType": 1}, 422, "fileType: 1 is said, but the document is a PDF (0)."),
        ({"fileType": 2}, 422, "fileType: "),
        ({"returnWordBox": True}, 422, "returnWordBox: lines are not cut into words"),
        ({"useDocUnwarping": True}, 422, "useDocUnwarping: "),
        ({"textDetThresh": 7}, 422, "textDetThresh: "),
        ({"useTableRecognition": True}, 422, "useTableRecognition: this pool has no such option"),
    ],
)
def test_what_is_refused(http: httpx.Client, ledger: Ledger, changed: dict[str, Any], status: int, says: str) -> None:
    assert_refused(http.post("/ocr", json={"file": encoded(PNG), **changed}), status, says)
    assert ledger.backlog()["unfinished"] == 0


def answered(served: Served, ledger: Ledger, asked: dict[str, Any], read: Callable[[str], None]) -> httpx.Response:
    """The answer to a request whose job `read` ends once it waits."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.http.post, "/ocr", json=asked)
        wait_until(lambda: served.waiting == 1)
        (job,) = cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:active", 0, -1))
        read(job.decode())
        told = answer.result()
    assert told.headers.get("location", f"/v1/jobs/{job.decode()}") == f"/v1/jobs/{job.decode()}"
    return told


def test_a_failed_document_answers_its_error(served: Served, ledger: Ledger) -> None:
    told = answered(served, ledger, {"file": encoded(PNG)}, lambda job_id: read_pages(ledger, job_id, failing={1}))
    assert_refused(told, 422, "The page is damaged.")
    assert "location" in told.headers


@pytest.mark.parametrize(("asked", "pictured"), [(None, 20), (True, 20), (False, 0)])
def test_pictures_are_of_a_few_pages_alone(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, asked: bool | None, pictured: int
) -> None:
    def read(job_id: str) -> None:
        count_pages(ledger, job_id, pages=21)
        for span in ("1+8", "9+8", "17+5"):
            read_pages(ledger, job_id, span)

    async def picture(gateway: Gateway, job_id: str, page: int) -> bytes:
        return b"%d" % page

    monkeypatch.setattr(paddlex, "picture", picture)
    with Served(settings.model_copy(update={"paddlex_visualize": True})) as served:
        told = answered(served, ledger, {"file": encoded(PDF), "visualize": asked}, read)
    pictures = [page["ocrImage"] for page in told.json()["result"]["ocrResults"]]
    assert pictures == [encoded(b"%d" % page) if page <= pictured else None for page in range(1, 22)]


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"colour": 1}, "colour: "), ({"fileType": 0}, "fileType: 0 is said"), ({"file": "?"}, "file: ")],
)
def test_a_refusal_has_the_client_s_log_id(http: httpx.Client, changed: dict[str, Any], says: str) -> None:
    told = http.post("/ocr", json={"file": encoded(PNG), "logId": "mine", **changed}).json()
    assert says in told["errorMsg"]
    assert told["logId"] == "mine"


def test_a_document_is_read_anew_and_base64_may_come_in_lines(settings: Settings, ledger: Ledger) -> None:
    with Served(settings) as served, ThreadPoolExecutor(1) as pool:
        headers = {"Cache-Control": "no-cache"}
        asked = {"file": base64.encodebytes(PNG).decode()}
        answer = pool.submit(served.http.post, "/ocr", json=asked, headers=headers)
        wait_until(lambda: served.waiting == 1)
        (job,) = cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:active", 0, -1))
        read_pages(ledger, job.decode())
        assert answer.result().json()["errorCode"] == 0
        assert not ledger.job(job.decode()).options.cache


def test_a_document_that_takes_too_long(settings: Settings, ledger: Ledger) -> None:
    with Served(settings.model_copy(update={"max_wait_s": 0.01})) as served:
        assert_refused(served.http.post("/ocr", json={"file": encoded(PNG)}), 504, "the job goes on at its Location")
