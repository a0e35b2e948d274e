"""Senders of webhooks that are killed, and endpoints that do whatever endpoints do, while documents come in."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from standardwebhooks import Webhook

from producer.job import ReadOptions
from producer.outbox import DeliveryState, Outbox
from producer.processes import PYTHON, Process
from producer.settings import as_environment
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import Pool, until
from tests.http_site import Asked, Site, reply

MakePool = Callable[..., Pool]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TURNING_NAMES = str(Path(__file__).parents[1] / "turning_names.py")


def sender(chaos: Pool, *ocrpool: str) -> Process:
    log = chaos.settings.data_dir / "logs" / "webhooks.log"
    command = [*PYTHON, *(ocrpool or ("-m", "producer.cli")), "webhooks", "deliver"]
    return Process("webhooks", command, log, as_environment(chaos.settings))


def hang_up(_: Asked) -> Iterator[bytes]:
    yield from ()


def let_pauses_pass(chaos: Pool) -> None:
    """The pauses between tries, and the leases of those that were killed; they take up to hours."""
    queues = [f"outbox:{origin}" for origin in chaos.members("outbox")]
    for key in [*queues, *(f"row:{row}" for row in chaos.members("rows")), "outbox", "rows"]:
        for member in chaos.members(key):
            chaos.client.zadd(f"chaos:{key}", {member: 0}, xx=True)


def all_told(chaos: Pool) -> bool:
    """Whether nothing is to be sent any more; lets the pauses pass if something is."""
    let_pauses_pass(chaos)
    return not Outbox(chaos.ledger).waiting()


@pytest.mark.chaos
def test_senders_killed_and_endpoints_failing(pool: MakePool, seed: int, full: bool) -> None:
    chaos = pool(webhook_secrets=(SECRET,), fetch_allow=("127.0.0.1",))
    report = Report("kill -9 of webhook senders", seed)
    told: dict[str, list[Asked]] = defaultdict(list)

    def as_endpoints_do(asked: Asked) -> Iterator[bytes]:
        """The first tries of most jobs come to nothing; some come to something that the sender never hears of."""
        tries = told[json.loads(asked.body)["data"]["id"]]
        tries.append(asked)
        if len(tries) > 3 or chaos.random.random() < 0.3:
            yield from reply(204)(asked)
            return
        time.sleep(chaos.random.uniform(0, 0.2))
        inward = f"Location: http://127.0.0.2:{inner.port}/"
        answer = chaos.random.choice(
            [reply(500), reply(429, b"", "Retry-After: 60"), reply(503), reply(302, b"", inward), hang_up]
        )
        yield from answer(asked)

    with Site(reply(200), host="127.0.0.2") as inner, Site(as_endpoints_do) as site:
        chaos.options = ReadOptions(webhook_url=f"http://127.0.0.1:{site.port}/hook")
        chaos.start_workers(1)
        senders = [sender(chaos), sender(chaos)]
        try:
            with chaos.load():
                for _ in range(12 if full else 2):
                    until(lambda: bool(told), 60)
                    time.sleep(chaos.random.uniform(0.5, 1.5))
                    senders.pop(0).kill()
                    senders.append(sender(chaos))
                    let_pauses_pass(chaos)
                    report.faults += 1
            chaos.finish(60)
            started = time.monotonic()
            until(lambda: all_told(chaos), 120)
            report.seconds = round(time.monotonic() - started, 1)
        finally:
            for process in senders:
                process.stop(grace_s=20)
    # Each job was told, as one event under one id, whatever ran twice; and nothing was sent inward.
    assert set(told) == set(chaos.submitted)
    assert max(map(len, told.values())) > 1
    for job_id, tries in told.items():
        assert {asked.headers["webhook-id"] for asked in tries} == {job_id.replace("job_", "msg_")}
        assert len({asked.body for asked in tries}) == 1
        Webhook(SECRET).verify(tries[-1].body, tries[-1].headers)
    assert chaos.ledger.totals()["webhooks_delivered"] == len(told)
    assert inner.connections == 0
    judge(chaos, report)


@pytest.mark.chaos
def test_endpoints_that_are_gone_silent_slow_or_move_inward(pool: MakePool, seed: int, full: bool) -> None:
    chaos = pool(webhook_secrets=(SECRET,), fetch_allow=("127.0.0.1",))
    report = Report("endpoints of webhooks gone, silent, slow, moving inward", seed)
    outbox, spoken = Outbox(chaos.ledger), Event()

    def job(url: str) -> str:
        chaos.options = ReadOptions(webhook_url=url)
        return chaos.submit(1)

    def state(job_id: str) -> DeliveryState:
        return outbox.get(job_id).state

    def keep_silent(_: Asked) -> Iterator[bytes]:
        spoken.wait(60)
        yield from ()

    def take_long(asked: Asked) -> Iterator[bytes]:
        time.sleep(6)
        yield from reply(204)(asked)

    def refuse_at_first(asked: Asked) -> Iterator[bytes]:
        tries = [other for other in moving.asked if other.headers["webhook-id"] == asked.headers["webhook-id"]]
        yield from reply(204 if len(tries) > 1 else 503)(asked)

    with (
        Site(reply(204)) as well,
        Site(reply(410)) as gone,
        Site(keep_silent) as silent,
        Site(take_long) as slow,
        Site(refuse_at_first) as moving,
        Site(reply(200), host="127.0.0.2", port=moving.port) as inner,
    ):
        silent_origin = f"http://127.0.0.1:{silent.port}"
        chaos.start_workers(1)
        process = sender(chaos, TURNING_NAMES)
        try:
            first = job(f"http://127.0.0.1:{gone.port}/hook")
            chaos.ends(first)
            until(lambda: state(first) is DeliveryState.DEAD, 60)
            # Who is silent or slow keeps nobody waiting who answers.
            given_up, told = [first], []
            for number in range(12 if full else 2):
                given_up.append(job(f"http://127.0.0.1:{gone.port}/hook"))
                told.append(job(f"http://127.0.0.1:{slow.port}/hook"))
                told.append(job(f"http://name-{number}.test:{moving.port}/{number}"))
                told.append(job(f"{silent_origin}/hook"))
                told.append(job(f"http://127.0.0.1:{well.port}/hook"))
                chaos.ends(told[-1])
                started = time.monotonic()
                until(lambda: state(told[-1]) is DeliveryState.DELIVERED, 10)
                report.recovered(time.monotonic() - started)
            if full:  # Until its time is over.
                until(lambda: any(delivery.attempts for delivery in outbox.all() if silent_origin in delivery.url), 30)
            spoken.set()
            silent.answer = reply(204)
            until(lambda: all_told(chaos), 120)
        finally:
            spoken.set()
            process.stop(grace_s=20)
    # What came of each is what its endpoint said; who is gone was asked once, and inward went nothing.
    assert {state(job_id) for job_id in given_up} == {DeliveryState.DEAD}
    assert {state(job_id) for job_id in told} == {DeliveryState.DELIVERED}
    assert len(gone.asked) == 1
    assert inner.connections == 0
    assert process.log().count(".test must not be reached") >= len({asked.path for asked in moving.asked})
    judge(chaos, report)
