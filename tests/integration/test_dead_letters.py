"""What is not this pool's own, and what the pool has given up: the worker lives, and a person can see why."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from producer import JobState, Producer
from producer.cli import app
from producer.dead import KEPT, DeadLetters, bury_message
from producer.embedded import Embedded
from producer.errors import NotFound
from producer.ledger import Claim
from producer.processes import Process
from producer.settings import Settings, as_environment
from tests.documents import png, tiff


@pytest.fixture
def settings(settings: Settings) -> Settings:
    soon = {"lease_s": 3.0, "lease_renew_s": 0.5, "sweep_interval_s": 0.2, "unclaimed_after_s": 1.0}
    return settings.model_copy(update={**soon, "predictor": "fake"})


@pytest.fixture
def worker(settings: Settings) -> Iterator[Process]:
    with Embedded(settings) as parts:
        (worker,) = parts.start_workers(1)
        yield worker


def envelope(body: Any, **headers: Any) -> str:
    """A message as Celery sends it."""
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"task": "ocrpool.read_span", "id": "1", "lang": "py", **headers},
            "properties": {
                "delivery_tag": str(id(body)),
                "body_encoding": "base64",
                "delivery_info": {},
                "priority": 0,
            },
        }
    )


PICKLE = json.dumps(
    {
        "body": "gASVAAAA",
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"task": "ocrpool.read_span", "id": "1"},
        "properties": {"delivery_tag": "pickle", "body_encoding": "base64", "delivery_info": {}},
    }
)
SPAN = {"version": 1, "job_id": f"job_{'0' * 32}", "span": {"first": 1, "count": 1}}
FOREIGN: dict[str, str | bytes] = {
    "words": "garbage",
    "no text": b"\xff\xfe\x00",
    "a list": "[]",
    "a number": "1",
    "an empty object": "{}",
    "deep": "[" * 100_000,
    "no headers": json.dumps({"body": "aGk=", "properties": {"delivery_tag": "a", "delivery_info": {}}}),
    "pickle": PICKLE,
    "a body that is a number": envelope(5),
    "a body of another task": envelope([[], {}, {}], task="nobody.knows"),
    "no message": envelope([[], {}, {}]),
    "a message of another version": envelope([[], {"message": {**SPAN, "version": 9}}, {}]),
    "a message without a job": envelope([[], {"message": {"version": 1}}, {}]),
    "a tag that is no key": json.dumps({**json.loads(PICKLE), "properties": {"delivery_tag": []}}),
    "not what it is compressed with": envelope([[], {"message": SPAN}, {}], compression="bzip2"),
    "of no compression": envelope([[], {"message": SPAN}, {}], compression="none that is known"),
    "a route that is a number": json.dumps(
        {"body": "aGk=", "headers": {}, "properties": {"delivery_tag": "w", "delivery_info": 5}}
    ),
    "an unknown task and a route that is a number": json.dumps(
        {**json.loads(PICKLE), "headers": {"task": "\ud800"}, "properties": {"delivery_tag": "u", "delivery_info": 5}}
    ),
    "a field that forges a line": envelope([[], {"message": {**SPAN, "\nforged\x1b[2J": "\nforged\x1b[2J"}}, {}]),
    "for later": envelope([[], {"message": SPAN}, {}], eta="2099-01-01T00:00:00"),
}


def test_messages_of_strangers_become_dead_letters_and_the_worker_reads_on(
    worker: Process, idle_pool: Producer, settings: Settings
) -> None:
    # Given messages that are not this pool's, more of them than the worker takes at a time
    letters = DeadLetters(idle_pool.ledger)
    rounds = 3
    for message in [*FOREIGN.values()] * rounds:
        idle_pool.ledger.redis.lpush(f"{settings.namespace}.interactive", message)

    # Then a job behind them is read by the same worker
    assert idle_pool.submit(png("hello")).wait(timeout_s=60).state is JobState.SUCCEEDED
    assert worker.popen.poll() is None

    # And each is kept, with its reason
    kept = letters.all()
    assert len(kept) == len(FOREIGN) * rounds
    assert all(letter.kind == "message" and letter.reason for letter in kept)
    assert "garbage" in {letter.content for letter in kept}
    assert idle_pool.ledger.totals()["dead_letters"] == len(kept)

    # And none of them writes lines of its own into the log
    assert worker.log_path
    log = worker.log_path.read_text()
    assert log.count("message.refused") == len(kept)
    assert log.replace("\n", "").isprintable()
    assert not any(line.startswith("forged") for line in log.splitlines())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {
    "headers": ["task", "id", "eta", "expires", "compression", "timelimit", "retries", "root_id", "argsrepr", "group"],
    "properties": ["delivery_tag", "body_encoding", "delivery_info", "priority", "correlation_id", "reply_to"],
}


@st.composite
def nearly_ours(draw: st.DrawFn) -> str:
    """A message of this pool with one part put wrong."""
    message = json.loads(envelope([[], {"message": SPAN}, {}]))
    part = draw(st.sampled_from([*message]))
    if part in FIELDS and draw(st.booleans()):
        message[part][draw(st.sampled_from(FIELDS[part]))] = draw(JUNK)
    else:
        message[part] = draw(JUNK)
    return json.dumps(message)


def test_no_bytes_on_the_queue_end_a_worker(worker: Process, idle_pool: Producer, settings: Settings) -> None:
    # Shrinking would go on with a worker that has ended.
    @given(st.lists(st.binary(max_size=200) | JUNK.map(json.dumps) | nearly_ours(), min_size=10, max_size=40))
    @hypothesis_settings(max_examples=30, deadline=None, phases=[Phase.generate])
    def read_on(messages: list[str | bytes]) -> None:
        idle_pool.ledger.redis.lpush(f"{settings.namespace}.interactive", *messages)
        assert idle_pool.submit(png("hello")).wait(timeout_s=30).state is JobState.SUCCEEDED
        assert worker.popen.poll() is None

    read_on()


def test_a_page_that_took_three_workers_along_can_be_seen_and_replayed(
    idle_pool: Producer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a page that three workers died with
    job = idle_pool.submit(tiff(["only page"]), name="deadly.tiff")
    ledger = idle_pool.ledger
    claim = ledger.claim(job.id, "prepare", "gpu0")
    assert isinstance(claim, Claim)
    ledger.plan(claim, claim.job.options.spans(1, 8))
    for _ in range(3):
        claim = ledger.claim(job.id, "1+1", "gpu0")
        assert isinstance(claim, Claim)
        ledger.redis.zadd(f"{settings.namespace}:leases", {f"{job.id} 1+1": 1})
        ledger.sweep("q.")
    assert job.status().state is JobState.FAILED

    # Then it is listed with its reason
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    (letter,) = DeadLetters(ledger).all()
    run = CliRunner()
    listed = run.invoke(app, ["dead", "list"])
    assert "page 1 of deadly.tiff" in listed.stdout
    assert "poison_document" in listed.stdout
    assert "  until " in listed.stdout
    assert job.id in run.invoke(app, ["dead", "show", letter.id, "--format", "json"]).stdout

    # And handed in again as a new job, once
    again = run.invoke(app, ["dead", "replay", letter.id])
    replayed = idle_pool.job(again.stdout.strip())
    assert replayed.id != job.id
    assert (replayed.status().state, replayed.status().name) == (JobState.QUEUED, "deadly.tiff")
    with pytest.raises(NotFound):
        DeadLetters(ledger).get(letter.id)


def test_a_dead_letter_says_that_its_document_went_with_its_job(
    idle_pool: Producer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a page of a document that ended its workers, and of which other pages are still to be read
    job = idle_pool.submit(tiff(["deadly", "another"]), name="\x1b[2Jdeadly.tiff")
    ledger = idle_pool.ledger
    idle_pool.ledger.bury(
        {"kind": "page", "job_id": job.id, "unit": "1+1", "code": "poison_document", "reason": "r\nr"}
    )
    letters = DeadLetters(ledger, clock=lambda: 1000.0)
    (letter,) = letters.all()
    assert letter.replayable_until == 1000 + settings.result_ttl_s
    job.cancel()
    (letter,) = letters.all()
    assert 1000 < (letter.replayable_until or 0) <= 1000 + settings.result_ttl_s

    # When the job's time is over
    ledger.redis.delete(*(f"{settings.namespace}:{kind}:{job.id}" for kind in ("job", "pages")))

    # Then the list says so, and so does whoever tries
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    run = CliRunner()
    assert letters.get(letter.id).replayable_until is None
    assert "document gone" in run.invoke(app, ["dead", "list"]).stdout
    assert "document gone" in run.invoke(app, ["dead", "show", letter.id]).stdout
    with pytest.raises(NotFound, match="OCRPOOL_RESULT_TTL_S"):
        letters.replay(letter.id, idle_pool)


def test_dead_letters_are_dropped_by_hand_and_the_oldest_by_themselves(idle_pool: Producer) -> None:
    letters = DeadLetters(idle_pool.ledger)
    for number in range(KEPT + 5):
        bury_message(idle_pool.ledger, f"message {number}".encode(), "queue", "a reason")
    there = letters.all()
    assert len(there) == KEPT
    assert (there[0].content, there[-1].content) == (f"message {KEPT + 4}", "message 5")
    letters.drop(there[0].id)
    assert len(letters.all()) == KEPT - 1
