"""Addresses of results in a bucket: good for anybody, for a while, and for no other object."""

from __future__ import annotations

import time
import uuid
from urllib.parse import parse_qs, urlsplit

import httpx
import pypdfium2
import pytest

from producer.api_keys import ApiKeys
from producer.formats import Format
from producer.job import JobResult, new_job_id
from producer.ledger import ORPHAN_S, Ledger
from producer.queue import Publisher
from producer.settings import Settings
from tests.documents import png
from tests.producer.formats.results import box, failed, line, read
from tests.producer.gateway.serving import Served, assert_problem, submit
from tests.producer.gateway.test_exports import TEXTS, finish
from tests.s3_server import BUCKET, AnyS3, S3Server
from worker.sweeper import Sweeper

LINE = line("Total <12.50> 合计", box(10, 30, 200, 40))


@pytest.fixture(params=["s3"])
def bucket(request: pytest.FixtureRequest) -> AnyS3:
    """That of one server or another."""
    server: AnyS3 = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def settings(settings: Settings, bucket: AnyS3) -> Settings:
    return settings.model_copy(update={"blob_url": f"s3://{BUCKET}/{uuid.uuid4().hex}"})


@pytest.fixture
def job_id(http: httpx.Client, ledger: Ledger) -> str:
    """A job that has been read."""
    job_id = submit(http, png("Total"), name='Räch"nung.png')
    finish(ledger, job_id, read(1, [[LINE]], width=320, height=96))
    return job_id


def link(http: httpx.Client, job_id: str, **query: str) -> dict[str, float | str]:
    answer = http.get(f"/v1/jobs/{job_id}/result/link", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, float | str] = answer.json()
    return found


def lifetime_s(found: dict[str, float | str]) -> float:
    """By the link itself, which the answer agrees with."""
    signed_s = float(parse_qs(urlsplit(str(found["url"])).query)["X-Amz-Expires"][0])
    assert float(found["expires_at"]) - time.time() == pytest.approx(signed_s, abs=5)
    return signed_s


@pytest.mark.parametrize("bucket", ["s3", "rclone"], indirect=True)
def test_anybody_may_fetch_the_result_from_the_bucket(http: httpx.Client, job_id: str, bucket: AnyS3) -> None:
    for format in TEXTS:
        found = httpx.get(str(link(http, job_id, format=format)["url"]))
        assert found.content == http.get(f"/v1/jobs/{job_id}/result", params={"format": format}).content
    found = httpx.get(str(link(http, job_id, format="pdf")["url"]))
    assert pypdfium2.PdfDocument(found.content)[0].get_textpage().get_text_range().strip() == LINE.text
    assert JobResult.model_validate_json(httpx.get(str(link(http, job_id)["url"])).content).id == job_id


@pytest.mark.parametrize("format", [*TEXTS, "pdf"])
def test_it_comes_as_the_gateway_would_give_it(http: httpx.Client, job_id: str, format: str) -> None:
    ours = http.get(f"/v1/jobs/{job_id}/result", params={"format": format}).headers
    theirs = httpx.get(str(link(http, job_id, format=format)["url"])).headers
    assert theirs["content-type"] == ours["content-type"]
    assert theirs["content-disposition"] == ours["content-disposition"]


def test_it_is_made_once_and_no_other_object_can_be_read_with_it(
    http: httpx.Client, job_id: str, s3: S3Server, settings: Settings
) -> None:
    first = str(link(http, job_id, format="text")["url"])
    s3.seen.clear()
    second = str(link(http, job_id, format="text")["url"])
    assert s3.seen == []
    assert urlsplit(first).path == urlsplit(second).path
    names = {key.rpartition("/")[2] for key in s3.below(settings.blob_url)}
    assert names == {job_id, f"{job_id}_text"}
    # Moto checks no signature: it has to be of this object alone.
    assert parse_qs(urlsplit(first).query)["X-Amz-SignedHeaders"] == ["host"]
    assert (
        parse_qs(urlsplit(str(link(http, job_id)["url"])).query)["X-Amz-Signature"]
        != parse_qs(urlsplit(second).query)["X-Amz-Signature"]
    )


def test_its_time_is_what_was_asked_for_within_the_settings_and_the_results_own(
    http: httpx.Client, job_id: str, ledger: Ledger
) -> None:
    assert lifetime_s(link(http, job_id)) == 3600
    assert lifetime_s(link(http, job_id, ttl_s="60")) == 60
    assert lifetime_s(link(http, job_id, ttl_s="100000")) == 3600
    for wrong in ("0", "-1", "inf", "soon"):
        answer = http.get(f"/v1/jobs/{job_id}/result/link", params={"ttl_s": wrong})
        assert assert_problem(answer, 422, "invalid_request")["detail"].startswith("ttl_s: ")
    # Given a result that goes in a moment
    ledger.redis.expire(f"{ledger.namespace}:job:{job_id}", 100)
    assert 90 <= lifetime_s(link(http, job_id)) <= 100


def test_clients_are_given_the_endpoint_that_they_know(settings: Settings, ledger: Ledger) -> None:
    public = settings.model_copy(update={"s3_public_url": "https://files.example.com"})
    with Served(public) as served:
        job_id = submit(served.http)
        finish(ledger, job_id, read(1, [[LINE]]))
        assert str(link(served.http, job_id)["url"]).startswith(f"https://files.example.com/{BUCKET}/")


def sweep(ledger: Ledger, settings: Settings) -> None:
    ledger.redis.delete(f"{settings.namespace}:sweeping")
    publisher = Publisher(settings)
    Sweeper(ledger, publisher, ledger.blobs, interval_s=settings.sweep_interval_s).sweep()
    publisher.close()


@pytest.mark.parametrize("bucket", ["s3", "rclone"], indirect=True)
def test_it_goes_with_the_job(
    http: httpx.Client, job_id: str, ledger: Ledger, bucket: AnyS3, settings: Settings
) -> None:
    url = str(link(http, job_id, format="markdown")["url"])
    garbage = f"{settings.namespace}:garbage"
    due = ledger.redis.zscore(garbage, f"{job_id}_markdown")
    assert due == pytest.approx(ledger.redis.zscore(garbage, job_id), abs=1000)
    # While the result is kept, no sweep takes it
    sweep(ledger, settings)
    assert httpx.get(url).status_code == 200
    # Once its time is over, one does
    ledger.redis.zunionstore(garbage, {garbage: 0})
    sweep(ledger, settings)
    assert httpx.get(url).status_code in (403, 404)
    assert bucket.below(settings.blob_url) == []
    assert ledger.redis.zcard(garbage) == 0


def test_what_could_not_be_stored_whole_goes_and_is_made_again(
    http: httpx.Client, job_id: str, ledger: Ledger, s3: S3Server
) -> None:
    s3.fault = lambda method, path: "AccessDenied" if method == "PUT" else ""
    assert_problem(http.get(f"/v1/jobs/{job_id}/result/link"), 503, "unavailable")
    seconds, _ = ledger.redis.time()
    due = ledger.redis.zscore(f"{ledger.namespace}:garbage", f"{job_id}_json")
    assert due is not None
    assert 0 < due - 1000 * seconds <= 1000 * (ORPHAN_S + 1)
    s3.fault = lambda method, path: ""
    assert httpx.get(str(link(http, job_id)["url"])).status_code == 200


def test_what_has_no_result_has_no_address(http: httpx.Client, ledger: Ledger, s3: S3Server) -> None:
    waiting, unread = submit(http), submit(http)
    finish(ledger, unread, failed(1))
    assert_problem(http.get(f"/v1/jobs/{waiting}/result/link"), 409, "not_finished")
    assert_problem(http.get(f"/v1/jobs/{new_job_id()}/result/link"), 404, "not_found")
    problem = assert_problem(http.get(f"/v1/jobs/{unread}/result/link?format=text"), 422, "corrupt_document")
    assert problem["instance"] == f"/v1/jobs/{unread}"
    assert http.get(f"/v1/jobs/{unread}/result/link").status_code == 200
    for format in (Format.OVERLAY, "docx"):
        answer = http.get(f"/v1/jobs/{unread}/result/link", params={"format": format})
        assert_problem(answer, 422, "invalid_request")


def test_only_the_tenant_may_ask(settings: Settings, ledger: Ledger) -> None:
    keys = ApiKeys(ledger)
    with Served(settings.model_copy(update={"api_keys": "on"})) as served:
        acme, other = ({"Authorization": f"Bearer {keys.create(name, name)[1]}"} for name in ("acme", "other"))
        served.http.headers.update(acme)
        job_id = submit(served.http)
        finish(ledger, job_id, read(1, [[LINE]]))
        address = f"/v1/jobs/{job_id}/result/link"
        assert served.http.get(address).status_code == 200
        assert_problem(served.http.get(address, headers=other), 404, "not_found")
        assert_problem(httpx.get(f"{served.url}{address}"), 401, "unauthorized")


def test_a_folder_has_no_addresses_and_the_setting_that_helps_is_named(settings: Settings) -> None:
    folder = settings.model_copy(update={"blob_url": ""})
    ledger = Ledger(folder)
    with Served(folder) as served:
        job_id = submit(served.http)
        finish(ledger, job_id, read(1, [[LINE]]))
        answer = served.http.get(f"/v1/jobs/{job_id}/result/link")
        assert "OCRPOOL_BLOB_URL" in assert_problem(answer, 501, "format_unavailable")["detail"]
    ledger.close()
