"""What load balancers, Prometheus and newcomers ask."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from producer.ledger import Ledger
from producer.settings import Settings
from tests.producer.gateway.serving import Served, assert_problem, read_pages, submit


def samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample by its name and label values."""
    text = http.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_pool_is_ready_while_a_worker_is(http: httpx.Client, ledger: Ledger) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert_problem(http.get("/readyz"), 503, "unavailable")
    ledger.announce("gpu0", {})
    assert http.get("/readyz").json() == {"status": "ready", "workers": 1}
    ledger.withdraw("gpu0")
    assert_problem(http.get("/readyz"), 503, "unavailable")


def test_without_redis_the_process_lives_but_is_not_ready(settings: Settings) -> None:
    with Served(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as served:
        assert served.http.get("/healthz").status_code == 200
        assert_problem(served.http.get("/readyz"), 503, "unavailable")
        assert samples(served.http)["ocrpool_redis_up",] == 0


def test_prometheus_is_told_where_the_workers_are(http: httpx.Client, ledger: Ledger) -> None:
    assert http.get("/metrics/workers").json() == [{"targets": []}]
    ledger.announce("worker-1-a", {"host": "gpu-host", "metrics": "0.0.0.0:9108"})
    ledger.announce("worker-2-b", {"host": "gpu-host", "metrics": "0.0.0.0:9109"})
    ledger.announce("worker-1-c", {"host": "laptop", "metrics": "127.0.0.1:40001"})
    assert http.get("/metrics/workers").json() == [{"targets": ["127.0.0.1:40001", "gpu-host:9108", "gpu-host:9109"]}]


def test_metrics_count_jobs_pages_queues_and_requests(http: httpx.Client, ledger: Ledger) -> None:
    # Given a job that was read, one that was cancelled and one in each lane
    read, cancelled = submit(http), submit(http)
    read_pages(ledger, read)
    http.delete(f"/v1/jobs/{cancelled}")
    submit(http, lane="bulk")
    http.get("/nothing/here")
    ledger.announce("gpu0", {})
    # When the metrics are scraped
    found = samples(http)
    # Then they tell it
    assert found["ocrpool_jobs_accepted_total",] == 3
    assert found["ocrpool_jobs_total", "succeeded"] == 1
    assert found["ocrpool_jobs_total", "cancelled"] == 1
    assert found["ocrpool_jobs_total", "failed"] == 0
    assert found["ocrpool_pages_total", "succeeded"] == 1
    assert found["ocrpool_queue_depth", "bulk"] == 1
    assert found["ocrpool_unfinished_jobs", "queued"] == 1
    assert found["ocrpool_workers",] == 1
    assert found["ocrpool_http_requests_total", "POST", "/v1/jobs", "202"] == 3
    assert found["ocrpool_http_requests_total", "DELETE", "/v1/jobs/{job_id}", "200"] == 1
    assert found["ocrpool_http_requests_total", "GET", "unmatched", "404"] == 1
    assert found["ocrpool_http_request_duration_seconds_count", "POST", "/v1/jobs"] == 3


def test_the_api_describes_itself(http: httpx.Client) -> None:
    home = http.get("/")
    assert (home.status_code, home.headers["location"]) == (307, "/docs")
    assert http.get("/docs").status_code == 200
    schema = http.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/result", "/v1/jobs/{job_id}/result/link",
        "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/pages", "/v1/jobs/{job_id}/pages/{page}/overlay.png", "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/timeline", "/v1/batches", "/v1/batches/{batch_id}", "/ocr", "/healthz", "/readyz",
        "/metrics", "/metrics/workers",
        "/api/v2/ocr/jobs", "/api/v2/ocr/jobs/{job_id}", "/api/v2/ocr/jobs/batch/{batch_id}",
        "/api/v2/ocr/jobs/{job_id}/result.jsonl", "/api/v2/ocr/jobs/{job_id}/pages/{page}.png",
    }  # fmt: skip
    for path in schema["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["tags"]
    form = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "name", "lane", "min_score"} <= set(form["properties"])
    conflict = schema["paths"]["/v1/jobs/{job_id}/result"]["get"]["responses"]["409"]["content"]
    assert conflict["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert {"Problem", "JobRequest", "ReadOptions"} <= set(schema["components"]["schemas"])


def test_without_its_blob_store_the_pool_is_not_ready(settings: Settings, ledger: Ledger) -> None:
    (settings.data_dir / "blobs").write_text("a file where the folder should be")
    ledger.announce("gpu0", {})
    with Served(settings) as served:
        assert served.http.get("/healthz").status_code == 200
        problem = assert_problem(served.http.get("/readyz"), 503, "unavailable")
        assert problem["detail"].startswith("The blob folder ")
