"""The API and its description agree: whatever a client sends, the answer is one that is described, and no bug."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from producer.gateway.app import create_app
from producer.ledger import Ledger
from producer.settings import Settings
from tests.producer.gateway.serving import PDF, Served, count_pages, read_pages, submit

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A gateway, and a job of its own that has ended."""
    settings = Settings(
        redis_url=redis_url,
        namespace="openapi",
        gateway_port=0,
        data_dir=tmp_path_factory.mktemp("api"),
        max_wait_s=0.01,
    )
    with Served(settings) as served:
        ledger = Ledger(settings)
        job_id = submit(served.http, PDF)
        count_pages(ledger, job_id, 2)
        read_pages(ledger, job_id, "1+2", failing={2})
        ledger.close()
        yield served, job_id


def operations() -> list[str]:
    paths = create_app(Settings()).openapi()["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def test_what_it_refers_to_is_there() -> None:
    described = create_app(Settings()).openapi()
    wanted = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(described)))
    assert wanted
    assert wanted <= set(described["components"]["schemas"])


@pytest.mark.parametrize("operation", operations())
def test_answers_are_those_that_the_description_names(described: tuple[Served, str], operation: str) -> None:
    served, job_id = described
    schema: Any = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    method, path = operation.split(" ")

    @given(case=schema[path][method].as_strategy())
    @hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def send(case: Any) -> None:
        # Half of the ids name a job: whatever was drawn, its length decides.
        if "job_id" in (case.path_parameters or {}) and len(str(case.path_parameters["job_id"])) % 2:
            case.path_parameters["job_id"] = job_id
        assert case.call_and_validate(checks=CHECKS, timeout=30).status_code != 500

    send()
