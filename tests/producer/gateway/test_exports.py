"""Results in every format, as a client fetches them."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET

import httpx
import pypdfium2
import pytest
from PIL import Image

from producer import exporting
from producer.blobs import FolderStore
from producer.formats import Format
from producer.job import JobResult, PageFailure, PageResult
from producer.ledger import Claim, Ledger
from producer.settings import Settings
from tests.documents import pdf, png, tiff
from tests.producer.formats.results import DAMAGED, box, failed, line, read
from tests.producer.gateway.serving import PDF, assert_problem, count_pages, submit

LINE = line("Total <12.50> 合计", box(10, 30, 200, 40))
#: Format -> its media type, how its file's name ends, and the text that shows that it is there.
TEXTS = {
    "json": ("application/json", ".json", '"text":"Total <12.50> 合计"'),
    "jsonl": ("application/x-ndjson", ".jsonl", '"text":"Total <12.50> 合计"'),
    "paddlex": ("application/json", ".paddlex.json", '"rec_texts": ["Total <12.50> 合计"]'),
    "text": ("text/plain; charset=utf-8", ".txt", "Total <12.50> 合计"),
    "markdown": ("text/markdown; charset=utf-8", ".md", "Total \\<12.50\\> 合计"),
    "hocr": ("text/vnd.hocr+html; charset=utf-8", ".hocr", "&lt;12.50&gt;</span>"),
}


def finish(ledger: Ledger, job_id: str, *pages: PageResult | PageFailure) -> None:
    """Do what a worker does with all of a short document."""
    if ledger.status(job_id).pages_total is None:
        count_pages(ledger, job_id, len(pages))
    claim = ledger.claim(job_id, f"1+{len(pages)}", "test")
    assert isinstance(claim, Claim)
    for page in pages:
        ledger.finish_page(claim, page)
    ledger.release(claim, again=False)


@pytest.mark.parametrize("format", TEXTS)
def test_a_result_comes_in_the_format_that_is_asked_for(http: httpx.Client, ledger: Ledger, format: str) -> None:
    job_id = submit(http, tiff(["one", "two"]), name='../Räch"nung\r\n.tiff')
    finish(ledger, job_id, read(1, [[LINE]], width=320, height=96), failed(2))
    answer = http.get(f"/v1/jobs/{job_id}/result", params={"format": format})
    media_type, suffix, wanted = TEXTS[format]
    assert answer.headers["content-type"] == media_type
    assert wanted in answer.text
    assert answer.headers.get("ocrpool-pages-failed") == (None if format == "json" else "1")
    how = "attachment" if format == "hocr" else "inline"
    named = f"filename=\"R_ch_nung.tiff{suffix}\"; filename*=UTF-8''R%C3%A4ch%22nung.tiff{suffix}"
    assert answer.headers["content-disposition"] == f"{how}; {named}"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_each_format_is_whole(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http, tiff(["one", "two"]))
    finish(ledger, job_id, read(1, [[LINE]], width=320, height=96), failed(2))

    def fetch(format: str) -> str:
        return http.get(f"/v1/jobs/{job_id}/result?format={format}").text

    whole = JobResult.model_validate_json(fetch("json"))
    assert [json.loads(one)["page"] for one in fetch("jsonl").split("\n")] == [page.page for page in whole.pages]
    assert json.loads(fetch("paddlex"))["dataInfo"]["type"] == "tiff"
    assert len(ET.fromstring(fetch("hocr")).findall(".//*[@class='ocr_page']")) == 2


@pytest.mark.parametrize("format", ["text", "paddlex"])
def test_pages_that_a_job_did_not_come_to_are_told_of(http: httpx.Client, ledger: Ledger, format: str) -> None:
    job_id = submit(http, PDF)
    count_pages(ledger, job_id, 5)
    claim = ledger.claim(job_id, "1+5", "test")
    assert isinstance(claim, Claim)
    for page in (read(1, [[LINE]]), failed(2)):
        ledger.finish_page(claim, page)
    ledger.cancel(job_id)
    answer = http.get(f"/v1/jobs/{job_id}/result?format={format}")
    assert answer.headers["ocrpool-pages-failed"] == "4"
    if format == "paddlex":
        assert answer.json()["dataInfo"]["numPages"] == 5
    assert http.get(f"/v1/jobs/{job_id}/result").json()["pages_total"] == 5


def test_a_searchable_pdf_and_an_overlay_come_from_the_document(http: httpx.Client, ledger: Ledger) -> None:
    job_id = submit(http, png("Total"), name="r.png")
    finish(ledger, job_id, read(1, [[LINE]], width=320, height=96))
    for asking in ({"params": {"format": "pdf"}}, {"headers": {"Accept": "application/pdf"}}):
        answer = http.get(f"/v1/jobs/{job_id}/result", **asking)  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.headers["content-disposition"].startswith('attachment; filename="r.png.searchable.pdf"')
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert pypdfium2.PdfDocument(answer.content)[0].get_textpage().get_text_range().strip() == LINE.text
    answer = http.get(f"/v1/jobs/{job_id}/pages/1/overlay.png")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (320, 96)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/markdown", "text/markdown; charset=utf-8"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("text/html, text/vnd.hocr+html;q=0.9", "text/vnd.hocr+html; charset=utf-8"),
        ("text/plain, application/json", "application/json"),
        ("text/html, */*", "application/json"),
        ("application/xml", "application/json"),
        ("application/json;q=0.1, text/plain;q=0.9", "text/plain; charset=utf-8"),
        ("text/plain;q=0", "application/json"),
        ("application/pdf;q=0, */*", "application/json"),
        ("text/plain, application/json;q=1.0", "application/json"),
    ],
)
def test_accept_names_a_format_and_whoever_takes_json_gets_it(
    http: httpx.Client, ledger: Ledger, accept: str, media_type: str
) -> None:
    job_id = submit(http)
    finish(ledger, job_id, read(1, [[LINE]]))
    answer = http.get(f"/v1/jobs/{job_id}/result", headers={"Accept": accept})
    assert answer.headers["content-type"] == media_type
    assert http.get(f"/v1/jobs/{job_id}/result?format=text", headers={"Accept": accept}).text == LINE.text


def test_what_cannot_be_had_is_refused_by_name(http: httpx.Client, ledger: Ledger) -> None:
    job_id, waiting = submit(http, tiff(["one", "two"])), submit(http)
    finish(ledger, job_id, read(1, [[LINE]]), failed(2))
    for format in ("overlay", "docx", ""):
        problem = assert_problem(http.get(f"/v1/jobs/{job_id}/result?format={format}"), 422, "invalid_request")
        assert problem["detail"].startswith("format: ")
    assert "no page 3" in assert_problem(http.get(f"/v1/jobs/{job_id}/pages/3/overlay.png"), 404, "not_found")["detail"]
    told = assert_problem(http.get(f"/v1/jobs/{job_id}/pages/2/overlay.png"), 422, "corrupt_document")
    assert told["detail"] == DAMAGED.message
    for page in ("0", "one"):
        answer = http.get(f"/v1/jobs/{job_id}/pages/{page}/overlay.png")
        assert assert_problem(answer, 422, "invalid_request")["detail"].startswith("page: ")
    for address in ("result?format=pdf", "pages/1/overlay.png"):
        assert_problem(http.get(f"/v1/jobs/{waiting}/{address}"), 409, "not_finished")
        assert_problem(http.get(f"/v1/jobs/job_{'0' * 32}/{address}"), 404, "not_found")


@pytest.mark.parametrize("format", [one for one in Format if one not in (Format.JSON, Format.OVERLAY)])
def test_a_job_without_any_page_is_its_error_in_every_format(
    http: httpx.Client, ledger: Ledger, format: Format
) -> None:
    job_id = submit(http)
    finish(ledger, job_id, failed(1))
    problem = assert_problem(http.get(f"/v1/jobs/{job_id}/result?format={format}"), 422, "corrupt_document")
    assert problem["instance"] == f"/v1/jobs/{job_id}"


def test_a_broken_document_costs_an_error_and_not_the_gateway(
    http: httpx.Client, ledger: Ledger, settings: Settings
) -> None:
    broken, good = submit(http, PDF), submit(http, pdf((100, 100)))
    for job_id in (broken, good):
        finish(ledger, job_id, read(1, [[LINE]], width=320, height=96))
    assert_problem(http.get(f"/v1/jobs/{broken}/result?format=pdf"), 422, "corrupt_document")
    assert_problem(http.get(f"/v1/jobs/{broken}/pages/1/overlay.png"), 422, "corrupt_document")
    assert http.get(f"/v1/jobs/{good}/result?format=pdf").status_code == 200
    FolderStore(settings.blob_dir).delete(good)
    assert_problem(http.get(f"/v1/jobs/{good}/result?format=pdf"), 404, "not_found")
    assert http.get(f"/v1/jobs/{good}/result?format=text").status_code == 200


def test_a_gateway_without_the_workers_libraries_says_so(
    http: httpx.Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_COMMAND", (*exporting._COMMAND[:-1], "[]"))
    job_id = submit(http, png("Total"))
    finish(ledger, job_id, read(1, [[LINE]]))
    problem = assert_problem(http.get(f"/v1/jobs/{job_id}/result?format=pdf"), 501, "format_unavailable")
    assert "`worker`" in problem["detail"]
