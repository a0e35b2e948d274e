"""PaddleOCR's own client reads with the pool as it does with the hosted service: synchronous, asynchronous, and its
command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image
from starlette.requests import Request

from producer.embedded import Embedded
from producer.errors import Unauthorized
from producer.gateway.documents import Upload
from producer.job import Line
from producer.ledger import Claim, Ledger
from producer.processes import free_port
from producer.producer import Producer
from producer.settings import Settings
from tests.contracts.official import COMMAND_LINE, ClientError, Official
from tests.documents import SAMPLES, character_f1, png, samples, tiff, truth
from tests.http_site import Site, reply
from tests.integration.test_cli import up
from tests.producer.gateway.serving import PDF, Served, count_pages, page_read

pytestmark = pytest.mark.skipif(
    not COMMAND_LINE.exists(), reason="PaddleOCR's client has an environment of its own: make .venv-paddleocr/installed"
)

REPORT, RECEIPT = SAMPLES / "report.pdf", SAMPLES / "receipt.jpg"
QUAD = ((0, 0), (9, 0), (9, 9), (0, 9))


class Call(Protocol):
    def __call__(self, method: str, *, token: str = "a token", **arguments: Any) -> Any: ...


@pytest.fixture(scope="module")
def official() -> Iterator[Official]:
    with Official() as official:
        yield official


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def gateway_url(pool: Producer) -> Iterator[str]:
    with Embedded(pool.settings.model_copy(update={"gateway_port": 0})) as parts:
        yield parts.start_gateway()


@pytest.fixture
def client(official: Official, kind: str, gateway_url: str) -> Call:
    return partial(official.call, kind, gateway_url)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_port": 0})


def text(page: dict[str, Any]) -> str:
    return "\n".join(page["pruned_result"]["rec_texts"])


@pytest.fixture
def ocr(client: Call, pool: Producer) -> Callable[..., Any]:
    """Reads a document as the client's method `ocr` does, which would first pause for 3 s where it is not done yet."""

    def ocr(**arguments: Any) -> Any:
        job_id = client("submit_ocr", **arguments)["job_id"]
        pool.wait(job_id, timeout_s=120)
        return client("wait_ocr_result", job=job_id)

    return ocr


def test_it_reads_the_samples(client: Call, pool: Producer) -> None:
    jobs = {sample: client("submit_ocr", file_path=str(sample))["job_id"] for sample in samples()}
    for sample, job_id in jobs.items():
        pool.wait(job_id, timeout_s=120)
        read = client("wait_ocr_result", job=job_id)
        pages = [text(page) for page in read["pages"]]
        assert len(pages) == len(truth(sample))
        assert character_f1("".join(pages), "".join(truth(sample))) > 0.95, sample.name


def test_a_page_has_paddlex_s_fields(ocr: Callable[..., Any]) -> None:
    options = {"text_rec_score_thresh": 0.6, "text_det_unclip_ratio": 1.8, "use_textline_orientation": True}
    read = ocr(file_path=str(RECEIPT), options=options)

    with Image.open(RECEIPT) as picture:
        assert read["data_info"] == {"width": picture.width, "height": picture.height, "type": "image"}
    pruned = read["pages"][0]["pruned_result"]
    assert pruned["rec_texts"][0] == "BLUEPINE COFFEE HOUSE"
    lines = {"rec_texts", "rec_scores", "rec_polys", "rec_boxes", "dt_polys", "textline_orientation_angles"}
    assert {len(pruned[name]) for name in lines} == {len(pruned["rec_texts"])}
    assert min(pruned["rec_scores"]) >= pruned["text_rec_score_thresh"] == 0.6
    assert pruned["text_det_params"]["unclip_ratio"] == 1.8
    assert set(pruned["textline_orientation_angles"]) == {0}
    assert pruned["model_settings"] == {"use_doc_preprocessor": False, "use_textline_orientation": True}
    assert pruned["text_type"] == "general"


def test_options_take_effect(ocr: Callable[..., Any]) -> None:
    read = ocr(file_path=str(RECEIPT), options={"text_det_thresh": 1.0, "visualize": False})
    assert read["pages"][0]["pruned_result"]["rec_texts"] == []
    assert read["pages"][0]["ocr_image_url"] is None


def test_page_ranges(ocr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "pages.tiff").write_bytes(tiff(["one", "two", "three", "four"]))
    read = ocr(file_path=str(tmp_path / "pages.tiff"), page_ranges="2,4-5")
    assert read["data_info"]["numPages"] == 2
    assert [text(page) for page in read["pages"]] == ["two", "four"]


def test_a_batch_is_followed(client: Call, pool: Producer, kind: str, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(png(f"number {number}"))
    name = f"batch.{kind}"
    jobs = [
        client("submit_ocr", file_path=str(tmp_path / f"{number}.png"), batch_id=name)["job_id"] for number in (1, 2)
    ]
    for job in jobs:
        pool.wait(job, timeout_s=60)

    followed = client("get_batch_status", batch_id=name)
    assert [job["job_id"] for job in followed["jobs"]] == jobs
    for job in followed["jobs"]:
        assert job["state"] == "done"
        assert (job["progress"]["total_pages"], job["progress"]["extracted_pages"]) == (1, 1)
        assert job["progress"]["start_time"] <= job["progress"]["end_time"]


def test_its_pictures_are_saved(client: Call, tmp_path: Path) -> None:
    read = client("ocr", file_path=str(RECEIPT), options={"visualize": True})
    (saved,) = client("save_ocr_result_resources", destination=str(tmp_path))
    with Image.open(saved) as picture, Image.open(RECEIPT) as page:
        assert picture.format == "PNG"
        assert picture.size == page.size
        assert picture.convert("RGB").tobytes() != page.convert("RGB").tobytes()
    single = client(
        "save_resource", resource_url=read["pages"][0]["ocr_image_url"], destination=str(tmp_path / "a.png")
    )
    assert Path(single).read_bytes() == Path(saved).read_bytes()


def test_a_corrupt_document_fails_its_job_with_a_sentence(client: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7\nnothing of a PDF follows")
    sentence = "The PDF is damaged and could not be opened."
    with pytest.raises(ClientError, match=rf"Job job_\w+ failed: {sentence}") as failed:
        client("ocr", file_path=str(tmp_path / "bad.pdf"))
    assert failed.value.kind == "JobFailedError"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"options": {"use_doc_unwarping": True}}, "useDocUnwarping: pages are not unwarped"),
        ({"options": {"use_doc_orientation_classify": True}}, "useDocOrientationClassify: "),
        ({"options": {"text_det_limit_side_len": 5}}, "textDetLimitSideLen: .*greater than or equal to 32"),
        ({"options": {"text_det_limit_type": "max"}}, "textDetLimitType: "),
        ({"options": {"text_rec_score_thresh": 2}}, "textRecScoreThresh: .*less than or equal to 1"),
        ({"options": {"extra_options": {"useSealRecognition": False}}}, "useSealRecognition: this pool has no such"),
        ({"model": "PP-OCRv5"}, "model: 'PP-OCRv5' is not served here; PP-OCRv6 is"),
        ({"page_ranges": "0-2"}, "pageRanges: "),
        ({"page_ranges": "7"}, "pageRanges: the document has 1, and none of 7"),
        ({"batch_id": "two words"}, "batchId: "),
    ],
)
def test_what_is_not_done_is_refused_by_name(client: Call, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError, match=f"Bad request: .*{says}") as refused:
        client("ocr", file_path=str(RECEIPT), **arguments)
    assert refused.value.kind == "InvalidRequestError"


def test_documents_are_not_parsed(client: Call) -> None:
    with pytest.raises(ClientError, match=r"model: 'PaddleOCR-VL-1.6' is not served here; PP-OCRv6 is") as refused:
        client("parse_document", file_path=str(RECEIPT))
    assert refused.value.kind == "InvalidRequestError"


def test_a_job_that_nobody_knows(client: Call) -> None:
    with pytest.raises(ClientError, match="HTTP 404: There is no job") as refused:
        client("get_status", job_id="job_" + 32 * "0")
    assert refused.value.kind == "APIError"


def test_a_full_pool(official: Official, kind: str, settings: Settings) -> None:
    full = settings.model_copy(update={"max_queued_jobs": 1, "paddleocr_models": ("PP-OCRv6",)})
    with Served(full) as served:
        job = official.call(kind, served.url, "submit_ocr", file_path=str(RECEIPT))
        assert official.call(kind, served.url, "get_status", job_id=job["job_id"])["state"] == "pending"
        with pytest.raises(ClientError, match="HTTP 429: Rate limit exceeded: The pool holds 1 unfinished") as refused:
            official.call(kind, served.url, "submit_ocr", file_path=str(RECEIPT))
    assert refused.value.kind == "RateLimitError"


def test_a_document_at_an_address(official: Official, kind: str, settings: Settings) -> None:
    changed = {"paddleocr_models": ("PP-OCRv6",), "fetch_allow": ("127.0.0.1",)}
    with Site(reply(200, png("from afar"))) as site, Served(settings.model_copy(update=changed)) as served:
        submit = partial(official.call, kind, served.url, "submit_ocr")
        job = submit(file_url=f"http://127.0.0.1:{site.port}/a.png", batch_id="afar", page_ranges="1")
        assert official.call(kind, served.url, "get_status", job_id=job["job_id"])["state"] == "pending"
        with pytest.raises(ClientError, match=r"Bad request: .*127\.0\.0\.2 must not be reached") as refused:
            submit(file_url=f"https://127.0.0.2:{site.port}/a.png")
    assert refused.value.kind == "InvalidRequestError"


def test_a_long_result_keeps_its_letters(
    official: Official, kind: str, settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    # The client looks at the first 200 KB to tell the encoding
    long = page_read(1).model_copy(update={"lines": (Line(quad=QUAD, text="plain " * 50_000, score=1.0),)})
    last = page_read(2).model_copy(update={"lines": (Line(quad=QUAD, text="产品试用记录 £ 5", score=1.0),)})
    (tmp_path / "long.pdf").write_bytes(PDF)
    with Served(settings.model_copy(update={"paddleocr_models": ("PP-OCRv6",)})) as served:
        job = official.call(kind, served.url, "submit_ocr", file_path=str(tmp_path / "long.pdf"))["job_id"]
        count_pages(ledger, job, 2)
        claim = ledger.claim(job, "1+2", "test")
        assert isinstance(claim, Claim)
        for page in (long, last):
            ledger.finish_page(claim, page)
        read = official.call(kind, served.url, "wait_ocr_result", job=job)
    assert text(read["pages"][1]) == "产品试用记录 £ 5"


def test_a_token_that_is_refused(
    official: Official, kind: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: Request, upload: Upload) -> None:
        raise Unauthorized("This API key is not known.")

    with Served(settings) as served:
        monkeypatch.setattr(served.gateway.producer, "submit", refuse)
        with pytest.raises(ClientError, match="Authentication failed: This API key is not known") as refused:
            official.call(kind, served.url, "submit_ocr", file_path=str(RECEIPT))
    assert refused.value.kind == "AuthError"


def test_a_pool_whose_workers_are_not_there_yet(official: Official, kind: str, settings: Settings) -> None:
    with (
        Served(settings) as served,
        pytest.raises(ClientError, match=r"HTTP 503: Service unavailable: .*no worker is ready") as refused,
    ):
        official.call(kind, served.url, "submit_ocr", file_path=str(RECEIPT))
    assert refused.value.kind == "ServiceUnavailableError"


def test_the_command_line_reads_with_ocrpool_up(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", data_dir=tmp_path / "data", gateway_port=0)
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    pictures.mkdir()
    with up(settings) as running:
        assert running.stderr is not None
        url = next(found[1] for line in running.stderr if (found := re.match(r"\s+gateway\s+(\S+)", line)))
        command = [str(COMMAND_LINE), "api", "--model_type", "ocr", "--base_url", url, "--token", "a token"]
        chosen = ["--file_path", str(REPORT), "--page_ranges", "1,3", "--use_textline_orientation", "True"]
        files = ["--output", str(out), "--save_resources", str(pictures)]
        read = subprocess.run([*command, *chosen, *files], capture_output=True, text=True, timeout=120, check=False)
        refused = subprocess.run(
            [*command, "--file_path", str(RECEIPT), "--use_doc_unwarping", "True"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert read.returncode == 0, read.stderr
    pages = json.loads(out.read_text())["pages"]
    for page, number in zip(pages, (1, 3), strict=True):
        words = "\n".join(page["prunedResult"]["rec_texts"])
        assert character_f1(words, truth(REPORT)[number - 1]) > 0.95
    assert sorted(file.name for file in pictures.iterdir()) == ["ocr-page-1.png", "ocr-page-2.png"]
    assert refused.returncode == 1
    assert "useDocUnwarping: pages are not unwarped" in refused.stderr
