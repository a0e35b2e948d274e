"""Whatever is passed to the ledger's scripts, they refuse it or do what they promise: the ledger stays whole."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import producer
from producer.errors import Unavailable
from producer.job import JobState, Lane
from producer.ledger import Claim, Ledger
from producer.limits import COUNTED
from producer.outbox import Outbox
from producer.settings import Settings
from tests.conftest import assert_every_key_is_owned
from tests.producer.test_ledger import claimed, lapse, make_job, page_read

#: Every one that there is.
SCRIPTS = sorted({path.stem for path in Path(producer.__file__).parent.glob("lua/*.lua")} - {"prelude"})
#: Stand for what the test's job has: its id, and the fences of its claims; and for one that has ended.
JOB, ENDED, FENCE, PREPARE_FENCE = "<job>", "<ended>", "<fence>", "<fence of prepare>"
JUNK = st.one_of(
    st.sampled_from(
        [JOB, ENDED, FENCE, PREPARE_FENCE, "", "0", "1", "2", "3", "1000", "60000", "-1", "0.5", "nan", "inf", "1e20"]
    ),
    st.sampled_from(
        [
            "prepare",
            "1+2",
            "3+1",
            "1+1",
            "0+0",
            "2+99999999",
            "interactive",
            "bulk",
            "quarantine",
            "failed",
            "again",
            "dead",
        ]
    ),
    st.sampled_from(["{}", "[]", "null", '{"code": "internal", "message": "m"}']),
    st.integers().map(str),
    st.text(max_size=8),
    st.binary(max_size=8),
)


def admission(**changed: object) -> str:
    """What `accept` is asked, of the right form but for what is `changed`."""
    form = {"id": "new", "record": "{}", "blob": "blob", "max_unfinished": 9, "deadline_ms": 9, "ttl_s": 9}
    form |= {"lane": "interactive", "pages_total": 1, "key": "", "fingerprint": "", "webhook": "", "units": ["1+1"]}
    form |= {"document": "d", "source": "", "follows": True, "known_s": 9, "known_bytes": 9, "result_ttl_s": 9}
    form |= {"tenant": "", "size_bytes": 9, "limits": {name: 0 for name in COUNTED}}
    form |= {"batch": "", "batch_most": 9, "retry_of": "", "messages": ["m"], "publishes": True}
    return json.dumps(form | changed)


@pytest.fixture
def fuzzed(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(settings)
    yield ledger
    ledger.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_arguments_break_the_ledger(fuzzed: Ledger, script: str) -> None:
    @given(arguments=st.lists(JUNK, max_size=11))
    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(arguments: list[str | bytes]) -> None:
        check(fuzzed, script, arguments)

    fuzz()


def test_no_admission_breaks_the_ledger(fuzzed: Ledger) -> None:
    fields = st.sampled_from(sorted(json.loads(admission())))
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.text(max_size=3))
    )

    @given(changed=st.dictionaries(fields, values, max_size=3))
    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(changed: dict[str, object]) -> None:
        check(fuzzed, "accept", [admission(**changed)])

    fuzz()


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("accept", [admission(ttl_s="a day")]),
        ("accept", [admission(messages="m")]),
        ("accept", [admission(messages=[7])]),
        ("accept", [admission(id="two words")]),
        ("accept", [admission(lane="express")]),
        ("accept", [admission(units=[])]),
        ("accept", [admission(units=None)]),
        ("accept", [admission(key=None)]),
        ("accept", [admission(record="[")]),
        ("accept", [admission(units=["1+99999999"])]),
        ("accept", [admission(tenant="two words")]),
        ("accept", [admission(limits={})]),
        ("claim", [JOB, "3+1", "express", "gpu1", "9000", "9", "{}", "token"]),
        ("claim", [JOB, "3+1", "interactive", "gpu1", "soon", "9", "{}", "token"]),
        ("accept", [admission(batch="b", batch_most=0)]),
        ("accept", [admission(batch=7, batch_most=1)]),
        ("accept", [admission(retry_of=None)]),
        ("list", ["", "soon", "9", ""]),
        ("list", ["done", "", "9", ""]),
        ("list", ["", "", "1e6", ""]),
        ("list", ["", "", "9", "acme"]),
        ("pages", [JOB, "-1", "9", "1"]),
        ("pages", [JOB, "0", "many", "1"]),
        ("forget_jobs", ["0"]),
        ("expect_blob", ["blob", "inf"]),
        ("derive", [ENDED, "../blob", ""]),
        ("derive", [ENDED, "blob", "soon"]),
        ("finish_job", [JOB, "running", "{}", "9", ""]),
        ("finish_job", [JOB, "failed", "{}", "soon", ""]),
        ("finish_page", [JOB, "1+2", FENCE, "3", "{}", "", "9"]),
        ("finish_page", [JOB, "1+2", FENCE, "1", "{}", "", "soon"]),
        ("finish_page", [JOB, "1+2", FENCE, "1", "{}", "", "9", "../blob"]),
        ("expect_outcome", [JOB, "1+2", FENCE, "1", "../blob", "9"]),
        ("expect_outcome", [JOB, "1+2", FENCE, "1", "blob", "soon"]),
        ("plan", [JOB, PREPARE_FENCE, "many", "interactive", "1+1"]),
        ("renew", ["9000", JOB, "1+2"]),
        ("release", [JOB, "1+2", FENCE, "1", "no JSON", "9"]),
        ("release", [JOB, "1+2", FENCE, "1", "1", "9"]),
        ("release", [JOB, "1+2", FENCE, "1", "{}", "soon"]),
        ("accept", [admission(webhook="example.com")]),
        ("settle_delivery", [JOB, "1", "perhaps", "0", "", "0", "0"]),
        ("settle_delivery", [JOB, "1", "again", "soon", "", "0", "0"]),
        ("settle_delivery", [ENDED, "1", "again", "soon", "", "0", "0"]),
        ("take_delivery", ["soon", "200", "[]", "0"]),
        ("take_delivery", ["30000", "200", "{", "0"]),
        ("take_delivery", ["30000", "200", "[]", "1000000"]),
        ("sweep", ["200", "0", "9", "{}", "no JSON", "q.", "9000"]),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    fuzzed: Ledger, script: str, arguments: list[str | bytes]
) -> None:
    assert check(fuzzed, script, arguments) == "refused"


@pytest.mark.parametrize("script", ["release", "renew", "finish_page", "expect_outcome"])
def test_the_fence_of_a_unit_that_nobody_held_is_no_key_to_it(fuzzed: Ledger, script: str) -> None:
    arguments: dict[str, list[str | bytes]] = {
        "release": [JOB, "3+1", "0", "0"],
        "renew": ["9000", JOB, "3+1", "0"],
        "finish_page": [JOB, "3+1", "0", "3", "{}", "", "9"],
        "expect_outcome": [JOB, "3+1", "0", "3", "blob", "9"],
    }
    check(fuzzed, script, arguments[script])


def check(ledger: Ledger, script: str, arguments: list[str | bytes]) -> str:
    """Run the script beside a job of three pages, one span of which is held, one whose pages are not counted, and one
    that has ended and whose webhook is to be sent.

    Returns whether it `ran`, or was `refused`.
    """
    ledger.scripts.namespace = f"t{uuid.uuid4().hex[:12]}"
    job, uncounted, ended = make_job(), make_job(), make_job(webhook_url="https://hooks.example/")
    ledger.settings = ledger.settings.model_copy(update={"span_pages": 2})
    ledger.accept(job, document_pages=3)
    ledger.accept(uncounted, document_pages=None)
    ledger.accept(ended, document_pages=1)
    ledger.cancel(ended.id)
    claim, counting = claimed(ledger, job, "1+2"), claimed(ledger, uncounted, "prepare")
    subject = uncounted.id if PREPARE_FENCE in arguments else job.id
    known = {JOB: subject, ENDED: ended.id, FENCE: str(claim.fence), PREPARE_FENCE: str(counting.fence)}
    try:
        ledger.scripts.run(script, *(known.get(one, one) if isinstance(one, str) else one for one in arguments))
        verdict = "ran"
    except (redis.exceptions.ResponseError, redis.exceptions.DataError):
        verdict = "refused"
    except Unavailable:
        pytest.fail("the script brought the server down, or keeps it busy")
    assert_whole(ledger, job.id)
    for _ in range(3):
        finish_what_is_left(ledger, job.id)
    assert ledger.status(job.id).final, "a unit of the job is lost"
    assert_whole(ledger, job.id)
    outbox = Outbox(ledger)
    assert (ended.id in outbox.waiting()) == (outbox.get(ended.id).state == "pending"), "a webhook is lost"
    for key in ledger.redis.scan_iter(f"{ledger.namespace}:*", count=1000):
        ledger.redis.delete(key)
    return verdict


def assert_whole(ledger: Ledger, job_id: str) -> None:
    """No key without TTL or owner, and the counts are those of the pages."""
    assert_every_key_is_owned(ledger.redis, ledger.namespace)
    status = ledger.status(job_id)
    pages = ledger.redis.hkeys(f"{ledger.namespace}:pages:{job_id}")
    assert status.pages_done + status.pages_failed == len(pages)
    assert {int(page) for page in pages} <= {1, 2, 3}
    assert not status.final or status.state is not JobState.SUCCEEDED or len(pages) == status.pages_total


def finish_what_is_left(ledger: Ledger, job_id: str) -> None:
    """Another worker, once the others are dead."""
    lapse(ledger)
    ledger.sweep("q.")
    waiting = [f"{ledger.namespace}:waiting:{lane.value}" for lane in Lane]
    members = [
        member.decode().split(" ", 1)
        for key in waiting
        for member in cast(list[bytes], ledger.redis.zrange(key, 0, -1))
    ]
    for unit in [unit for job, unit in members if job == job_id]:
        claim = ledger.claim(job_id, unit, "last")
        for page in claim.pages if isinstance(claim, Claim) else ():
            ledger.finish_page(claim, page_read(page))  # type: ignore[arg-type]  # a claim, since it has pages
