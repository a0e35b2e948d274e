"""One gateway a test, on the test's own namespace."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from producer.settings import Settings
from tests.producer.gateway.serving import Served


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_port": 0, "max_document_bytes": 100_000})


@pytest.fixture
def served(settings: Settings) -> Iterator[Served]:
    with Served(settings) as served:
        yield served


@pytest.fixture
def http(served: Served) -> httpx.Client:
    return served.http
