"""Publishing: what cannot be published stands in the ledger, so nobody hears of it but the log."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import Any

from celery import Celery
from structlog.testing import capture_logs

from producer.job import PREPARE, PrepareMessage, Span, SpanMessage, Unit, new_job_id, to_json
from producer.ledger import Ledger
from producer.processes import PYTHON, free_port
from producer.queue import PREPARE_TASK, READ_SPAN_TASK, Publisher, broker_settings
from producer.settings import Settings, as_environment


def test_messages_are_those_that_celery_sends(settings: Settings, ledger: Ledger) -> None:
    job_id = new_job_id()
    units: list[Unit] = [(job_id, unit, lane) for unit in (PREPARE, "9+8") for lane in ("interactive", "bulk")]
    with Celery("sender", set_as_current=False) as celery:
        celery.conf.update(broker_settings(settings))
        for _, unit, lane in units:
            task, message = PREPARE_TASK, to_json(PrepareMessage(job_id=job_id))
            if unit != PREPARE:
                task, message = READ_SPAN_TASK, to_json(SpanMessage(job_id=job_id, span=Span.parse(unit)))
            celery.send_task(task, kwargs={"message": message}, queue=f"{settings.namespace}.{lane}")
    publisher = Publisher(settings)
    publisher.publish(units)
    publisher.close()
    for lane in ("interactive", "bulk"):
        *one_by_one, first, second = [
            json.loads(message) for message in ledger.redis.lrange(f"{settings.namespace}.{lane}", 0, -1)[::-1]
        ]
        ids = [message["headers"]["id"] for message in (*one_by_one, first, second)]
        assert len(set(ids)) == 4
        assert [without_ids(message) for message in one_by_one] == [without_ids(first), without_ids(second)]


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """The message but for what names it and its sender."""
    task_id, properties = message["headers"]["id"], message["properties"]
    assert task_id == message["headers"]["root_id"] == properties["correlation_id"] != properties["delivery_tag"]
    known = {"id": "", "root_id": "", "origin": ""}
    named = {"correlation_id": "", "delivery_tag": "", "reply_to": ""}
    body = json.loads(base64.b64decode(message["body"]))
    return {**message, "body": body, "headers": message["headers"] | known, "properties": properties | named}


def test_a_broker_that_is_away_leaves_the_units_to_the_sweeper(settings: Settings) -> None:
    publisher = Publisher(settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"}))
    with capture_logs() as logs:
        publisher.publish([(new_job_id(), "1+1", "interactive")])
    publisher.close()
    assert [entry["event"] for entry in logs] == ["queue.publish_failed"]


def test_the_first_units_of_many_threads_are_all_published(settings: Settings, ledger: Ledger) -> None:
    """In a process of its own, where nobody has imported Celery yet."""
    code = """if True:
        import threading
        from producer.job import new_job_id
        from producer.queue import Publisher
        from producer.settings import Settings

        publisher, together = Publisher(Settings()), threading.Barrier(16)

        def publish():
            together.wait()
            publisher.publish([(new_job_id(), "1+1", "interactive")])

        threads = [threading.Thread(target=publish) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    subprocess.run([*PYTHON, "-c", code], env={**os.environ, **as_environment(settings)}, check=True)
    assert ledger.redis.llen(f"{settings.namespace}.interactive") == 16
