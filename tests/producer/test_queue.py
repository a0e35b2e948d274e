"""Publishing: what cannot be published stands in the ledger, so nobody hears of it but the log."""

from __future__ import annotations

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from structlog.testing import capture_logs

from producer.job import Unit, new_job_id
from producer.queue import Publisher
from producer.settings import Settings


@pytest.mark.parametrize("error", [OperationalError("away"), ConnectionResetError(), AttributeError("no connection")])
def test_a_connection_that_breaks_leaves_the_unit_to_the_sweeper(
    error: Exception, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise error

    unit: Unit = (new_job_id(), "1+1", "interactive")
    publisher = Publisher(settings)
    monkeypatch.setattr(Celery, "send_task", break_off)
    with capture_logs() as logs:
        publisher.publish([unit])
    publisher.close()
    assert [entry["event"] for entry in logs] == ["queue.publish_failed"]
