"""A worker's health page."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from producer.errors import Unavailable
from worker import metrics
from worker.health import HealthServer


class Patient:
    """An engine whose trouble the test decides."""

    def __init__(self) -> None:
        self.trouble = ""
        self.hindrance = ""


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def server(patient: Patient) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, lambda: patient.trouble, lambda: patient.hindrance)
    server.start()
    yield server
    server.stop()


def test_health_follows_the_engine(server: HealthServer, patient: Patient) -> None:
    url = f"http://{server.address}/healthz"
    assert httpx.get(url).status_code == 200

    patient.trouble = "recogniser: a runner has ended"

    answer = httpx.get(url)
    assert (answer.status_code, answer.text) == (503, "recogniser: a runner has ended\n")


def test_what_no_restart_cures_is_told_beside_it(server: HealthServer, patient: Patient) -> None:
    patient.hindrance = "The blob store cannot be reached."

    answer = httpx.get(f"http://{server.address}/readyz")

    assert (answer.status_code, answer.text) == (503, "The blob store cannot be reached.\n")
    assert httpx.get(f"http://{server.address}/healthz").status_code == 200
    patient.hindrance = ""
    assert httpx.get(f"http://{server.address}/readyz").status_code == 200


def test_metrics_are_beside_it(server: HealthServer) -> None:
    assert metrics.PAGES_IN_FLIGHT
    assert "ocrpool_worker_pages_in_flight" in httpx.get(f"http://{server.address}/metrics").text


def test_a_port_in_use_is_named(server: HealthServer) -> None:
    host, port = server.address.split(":")
    with pytest.raises(Unavailable, match=f"cannot listen on {server.address}"):
        HealthServer(host, int(port), str, str)
