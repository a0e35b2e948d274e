"""Webhooks: what the receiver sees, when it is tried again, and that none is lost or keeps others waiting."""

from __future__ import annotations

import base64
import json
import math
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import cast

import pytest
import structlog.testing
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError
from typer.testing import CliRunner

from producer import webhooks
from producer.cli import app
from producer.dead import DeadLetters
from producer.errors import FetchFailed, NotFound
from producer.fetching import Answer, Fetcher
from producer.job import JobState
from producer.ledger import Ledger
from producer.outbox import LEASE_S, Delivery, DeliveryState, Outbox, Standing, Taken, Verdict
from producer.processes import PYTHON, Process
from producer.producer import Producer
from producer.retry_after import retry_after_s
from producer.settings import Settings, as_environment
from producer.webhooks import JITTER, SCHEDULE_S, Deliverer, UnderWay, delivering, judge, signed
from tests.http_site import Asked, Reply, Site, reply
from tests.producer.gateway.serving import PDF, Served, wait_until
from tests.producer.test_ledger import claimed, make_job, page_failed, page_read

OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 24).decode() for n in (1, 2))
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "webhook_secrets": (NEW, OLD),
            "fetch_allow": ("127.0.0.1", "rebinding.example"),
            "public_url": "https://ocr.example",
        }
    )


@pytest.fixture
def site() -> Iterator[Site]:
    """The receiver."""
    with Site(reply(204)) as site:
        yield site


@pytest.fixture
def outbox(ledger: Ledger) -> Outbox:
    return Outbox(ledger)


def ended(ledger: Ledger, url: str, *, tenant: str = "", failing: bool = False) -> str:
    """A job of two pages with a webhook, that has just ended. Returns its id."""
    job = make_job(webhook_url=url).model_copy(update={"tenant": tenant})
    ledger.accept(job, document_pages=2)
    claim = claimed(ledger, job, "1+2")
    ledger.finish_page(claim, page_read(1))
    ledger.finish_page(claim, page_failed(2) if failing else page_read(2))
    return job.id


def queues(ledger: Ledger) -> list[str]:
    return [key.decode() for key in ledger.redis.scan_iter(f"{ledger.namespace}:outbox:*")]


def due_in_s(ledger: Ledger, job_id: str) -> float:
    """Time until the job's webhook is tried next, by the server's clock."""
    [due] = [due for key in queues(ledger) if (due := ledger.redis.zscore(key, job_id)) is not None]
    assert isinstance(due, float)
    seconds, microseconds = ledger.redis.time()
    return due / 1000 - seconds - microseconds / 1e6


def make_due(ledger: Ledger) -> None:
    """Let all the pauses and leases pass."""
    rows = [key.decode() for key in ledger.redis.scan_iter(f"{ledger.namespace}:row*")]
    for key in [f"{ledger.namespace}:outbox", *queues(ledger), *rows]:
        for member in cast(list[bytes], ledger.redis.zrange(key, 0, -1)):
            ledger.redis.zadd(key, {member: 0})


def deliverer(ledger: Ledger, settings: Settings, fetcher: Fetcher | None = None) -> Deliverer:
    return Deliverer(settings, ledger, fetcher=fetcher, chance=lambda: 0.5)


def send_due(sender: Deliverer, outbox: Outbox) -> Verdict:
    taken = outbox.take()
    assert taken is not None
    return sender.send(taken)


def verified(asked: Asked, secret: str) -> dict[str, object]:
    found: dict[str, object] = Webhook(secret).verify(asked.body, asked.headers)
    return found


def test_the_receiver_verifies_what_it_is_told_with_each_secret(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site
) -> None:
    # Given a job with a webhook of which one page failed
    job_id = ended(ledger, f"http://127.0.0.1:{site.port}/hook?tenant=7", failing=True)
    # When it is delivered
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED
    # Then the public library verifies it by the old secret and by the new one, and by no other
    [asked] = site.asked
    told = verified(asked, OLD)
    assert told == verified(asked, NEW)
    with pytest.raises(WebhookVerificationError):
        verified(asked, "whsec_" + base64.b64encode(bytes(24)).decode())
    # And it says what has become of the job, and where to go on
    status = ledger.status(job_id)
    assert told["type"] == "job.partial"
    assert datetime.fromisoformat(str(told["timestamp"])).timestamp() == status.finished_at
    assert told["data"] == {
        "id": job_id,
        "name": "",
        "state": "partial",
        "pages_total": 2,
        "pages_done": 1,
        "pages_failed": 1,
        "error": None,
        "links": {
            "self": f"https://ocr.example/v1/jobs/{job_id}",
            "result": f"https://ocr.example/v1/jobs/{job_id}/result",
        },
    }
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/hook?tenant=7", "application/json")
    assert outbox.get(job_id).state is DeliveryState.DELIVERED
    assert ledger.totals()["webhooks_delivered"] == 1
    assert ledger.backlog()["webhooks"] == 0
    assert outbox.take() is None


def test_every_end_of_a_job_is_told_once_and_a_job_without_a_webhook_never(ledger: Ledger, outbox: Outbox) -> None:
    ledger.accept(plain := make_job(), document_pages=1)
    ledger.cancel(plain.id)
    ledger.accept(cancelled := make_job(webhook_url="https://a.example/"), document_pages=1)
    ledger.accept(expired := make_job(webhook_url="https://a.example/", deadline_s=0.001), document_pages=None)
    ledger.cancel(cancelled.id)
    ledger.cancel(cancelled.id)
    wait_until(lambda: ledger.sweep("q.") is not None and ledger.status(expired.id).final)
    events = {delivery.job_id: delivery.event("") for delivery in outbox.all()}
    assert {job_id: event["type"] for job_id, event in events.items()} == {
        cancelled.id: "job.cancelled",
        expired.id: "job.expired",
    }
    assert events[expired.id]["data"]["error"]["code"] == "deadline_exceeded"
    assert events[expired.id]["data"]["pages_total"] is None


def test_a_dead_endpoint_is_tried_by_the_schedule_and_then_given_up(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site
) -> None:
    # Given an endpoint that fails each time
    site.answer = reply(500)
    job_id = ended(ledger, f"http://127.0.0.1:{site.port}/hook?token=secret")
    sender = deliverer(ledger, settings)
    # When all its tries are made, each when it is due
    for pause_s in SCHEDULE_S:
        assert due_in_s(ledger, job_id) == pytest.approx(pause_s * (1 + JITTER / 2), abs=2)
        make_due(ledger)
        send_due(sender, outbox)
    # Then they were eight, of one event under one id, each signed anew
    assert len(site.asked) == len(SCHEDULE_S) == 8
    assert len({(asked.headers["webhook-id"], asked.body) for asked in site.asked}) == 1
    assert all(verified(asked, NEW) for asked in site.asked)
    # And the webhook is a dead letter, without what may be the receiver's secret
    assert outbox.get(job_id).state is DeliveryState.DEAD
    [letter] = DeadLetters(ledger).all()
    assert (letter.kind, letter.job_id, letter.name) == ("webhook", job_id, f"http://127.0.0.1:{site.port}/hook")
    assert letter.reason == "The endpoint answered 500 Internal Server Error."
    assert letter.replayable_until is not None
    assert (ledger.totals()["webhooks_failed"], ledger.backlog()["webhooks"]) == (1, 0)
    assert outbox.take() is None

    # When its letter is replayed once the endpoint lives
    site.answer = reply(200)
    with Producer(settings, ledger=ledger) as producer:
        assert DeadLetters(ledger).replay(letter.id, producer).id == job_id
        assert send_due(sender, outbox).state is DeliveryState.DELIVERED
    # Then it comes under the id that it had
    assert len({asked.headers["webhook-id"] for asked in site.asked}) == 1
    assert not DeadLetters(ledger).all()


def delivery(attempts: int = 0, url: str = "https://a.example/hook") -> Delivery:
    return Delivery(
        job_id="job_" + "0" * 32,
        url=url,
        state=DeliveryState.PENDING,
        attempts=attempts,
        outcome="",
        ended_at=0,
        job_state=JobState.SUCCEEDED,
        pages_total=1,
        pages_done=1,
        pages_failed=0,
        error=None,
        name="",
    )


@given(chance=st.floats(0, 1, exclude_max=True), attempts=st.integers(0, 6))
def test_a_pause_is_never_shorter_than_the_schedule_nor_much_longer(chance: float, attempts: int) -> None:
    verdict = judge(delivery(attempts), FetchFailed("x"), 0, now=NOW, chance=lambda: chance)
    assert verdict.state is DeliveryState.PENDING
    assert SCHEDULE_S[attempts + 1] <= verdict.delay_s <= SCHEDULE_S[attempts + 1] * (1 + JITTER)
    assert judge(delivery(7), FetchFailed("x"), 0, now=NOW, chance=lambda: chance).state is DeliveryState.DEAD


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("120", 120),
        ("2", 5),
        ("999999999", 24 * 3600),
        (format_datetime(NOW + timedelta(minutes=3)), 180),
        (format_datetime(NOW - timedelta(days=1)), 5),
        ("Fri, 99 Nov", 5),
        ("Fri, 31 Dec 2026 23:59:59 +99999999999999999999", 5),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", 5),
        ("9" * 400, 5),
        ("-1", 5),
        ("1e9", 5),
        ("", 5),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept_within_bounds(header: str, pause_s: float, status: int) -> None:
    answer = Answer(status, {"retry-after": header})
    verdict = judge(delivery(), answer, 0, now=NOW, chance=lambda: 0)
    assert (verdict.state, verdict.delay_s) == (DeliveryState.PENDING, pause_s)


#: A date with anything in its places.
DATES = st.tuples(
    st.sampled_from(["Fri, ", ""]),
    st.integers(-1, 10**20),
    st.sampled_from([" Dec ", " Foo "]),
    st.integers(-1, 10**20),
    st.sampled_from([" 23:59:59 ", " 99:59:59 ", " 23:59 "]),
    st.sampled_from(["GMT", "", "-0000", "+2359", "+9999"]) | st.integers().map("{:+}".format),
).map(lambda parts: "".join(map(str, parts)))


@given(st.text() | DATES | st.integers(0).map(str))
def test_no_retry_after_brings_it_down(header: str) -> None:
    assert 0 <= retry_after_s(header, NOW) < math.inf


@pytest.mark.parametrize("broken", ["signed", "Fetcher.post", "retry_after_s"])
def test_a_try_that_breaks_is_a_failed_one_and_told_with_its_traceback_once(
    ledger: Ledger, settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    # Given a fault of the pool's own, before, in or after the request
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"producer.webhooks.{broken}", fail)
    site.answer = reply(503, b"", "Retry-After: 9")
    job_id = ended(ledger, f"http://127.0.0.1:{site.port}/")
    # When the webhook is tried as often as the schedule says
    outbox = Outbox(ledger)
    with structlog.testing.capture_logs() as logs:
        sender = deliverer(ledger, settings)
        for pause_s in SCHEDULE_S:
            # Then each was a try, and the next one is due by the schedule
            assert due_in_s(ledger, job_id) == pytest.approx(pause_s * (1 + JITTER / 2), abs=2)
            make_due(ledger)
            send_due(sender, outbox)
    # And it is given up in the end
    assert (outbox.get(job_id).state, outbox.get(job_id).attempts) == (DeliveryState.DEAD, len(SCHEDULE_S))
    assert outbox.get(job_id).outcome == "The webhook could not be sent."
    told = [line for line in logs if line.get("exc_info")]
    assert [line["event"] for line in told] == ["webhook.not_sent"] * len(SCHEDULE_S)


def test_an_endpoint_that_is_gone_gets_no_more(ledger: Ledger, settings: Settings, outbox: Outbox, site: Site) -> None:
    # Given an endpoint that answered 410
    site.answer = reply(410)
    first = ended(ledger, f"http://127.0.0.1:{site.port}/hook?job=1")
    assert send_due(deliverer(ledger, settings), outbox).disabled
    # When another job ends that is to be told there
    second = ended(ledger, f"http://127.0.0.1:{site.port}/hook?job=2")
    other = ended(ledger, f"http://127.0.0.1:{site.port}/other")
    # Then nothing more is sent there, and other endpoints of the site get theirs
    site.answer = reply(200)
    send_due(deliverer(ledger, settings), outbox)
    assert outbox.take() is None
    assert [asked.path for asked in site.asked] == ["/hook?job=1", "/other"]
    assert {outbox.get(job).state for job in (first, second)} == {DeliveryState.DEAD}
    assert outbox.get(other).state is DeliveryState.DELIVERED
    # And who replays one opens the endpoint again
    outbox.replay(second)
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED


def test_what_one_tenant_is_answered_is_nothing_to_another(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a tenant whose endpoint took long and then wanted no more
    monkeypatch.setattr(webhooks, "SLOW_S", -1)
    site.answer = reply(410)
    url = f"http://127.0.0.1:{site.port}/hook?customer="
    theirs = [ended(ledger, url + "1", tenant="acme") for _ in range(2)]
    verdict = send_due(deliverer(ledger, settings), outbox)
    assert (verdict.disabled, verdict.slow) == (True, True)
    monkeypatch.undo()
    # When other tenants' jobs end that are to be told there
    site.answer = reply(204)
    others = [ended(ledger, url + str(n), tenant=tenant) for n, tenant in enumerate(["zeta", ""], start=2)]
    # Then they are told, at once; and of the first one's only one went there
    for _ in others:
        assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED
    assert outbox.take() is None
    make_due(ledger)
    assert outbox.take() is None
    assert [asked.path for asked in site.asked] == [f"/hook?customer={n}" for n in (1, 2, 3)]
    assert {outbox.get(job).state for job in theirs} == {DeliveryState.DEAD}
    # And what one of them replays opens its own endpoint alone
    outbox.replay(others[0])
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED
    ended(ledger, url + "1", tenant="acme")
    make_due(ledger)
    assert outbox.take() is None
    # And who replays the first one's opens it for all of that tenant's
    outbox.replay(theirs[0])
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site, status: int
) -> None:
    with Site(reply(200)) as inner:
        site.answer = reply(status, b"", f"Location: http://127.0.0.1:{inner.port}/")
        job_id = ended(ledger, f"http://127.0.0.1:{site.port}/")
        assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.PENDING
    assert inner.connections == 0
    assert str(status) in outbox.get(job_id).outcome


def test_an_endpoint_whose_name_moves_inward_is_not_touched(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site
) -> None:
    # Given an endpoint whose name was allowed when the job came in, and leads inward since
    settings = settings.model_copy(update={"fetch_allow": ()})
    fetcher = Fetcher(settings, resolver=lambda host, port: ["127.0.0.1"])
    job_id = ended(ledger, f"https://moving.example:{site.port}/hook")
    # When it is to be told
    assert send_due(deliverer(ledger, settings, fetcher), outbox).state is DeliveryState.PENDING
    # Then no byte was sent, and it is tried again later
    assert (site.connections, site.received_bytes) == (0, 0)
    assert "not a public one" in outbox.get(job_id).outcome


def test_a_slow_endpoint_is_left_and_its_origin_rests(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an endpoint that says nothing
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(webhooks, "SLOW_S", 0.1)
    silent = threading.Event()

    def say_nothing(_: Asked) -> Iterator[bytes]:
        silent.wait(30)
        yield b""

    site.answer = say_nothing
    first = ended(ledger, f"http://127.0.0.1:{site.port}/a")
    # When its time is over
    verdict = send_due(deliverer(ledger, settings), outbox)
    silent.set()
    # Then it is tried again by the schedule, and what else is to go to its origin waits a little
    assert (verdict.state, verdict.slow) == (DeliveryState.PENDING, True)
    assert due_in_s(ledger, first) == pytest.approx(SCHEDULE_S[1] * (1 + JITTER / 2), abs=2)
    ended(ledger, f"http://127.0.0.1:{site.port}/b")
    assert outbox.take() is None
    # And no longer than until it has answered in time
    make_due(ledger)
    site.answer = reply(200)
    send_due(deliverer(ledger, settings), outbox)
    make_due(ledger)
    ended(ledger, f"http://127.0.0.1:{site.port}/c")
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED


def say_nothing_until(spoken: threading.Event) -> Reply:
    def answer(_: Asked) -> Iterator[bytes]:
        spoken.wait(60)
        yield b""

    return answer


def test_dead_endpoints_keep_no_other_waiting(ledger: Ledger, settings: Settings, site: Site) -> None:
    # Given two endpoints that never answer, to which more is to be sent than is sent at a time
    silent = threading.Event()
    with Site(say_nothing_until(silent)) as dead, Site(say_nothing_until(silent)) as dead_too:
        share = settings.webhook_deliveries // webhooks.SHARE
        for _ in range(2 * share):
            ended(ledger, f"http://127.0.0.1:{dead.port}/")
            ended(ledger, f"http://127.0.0.1:{dead_too.port}/")
        alive = [ended(ledger, f"http://127.0.0.1:{site.port}/{n}") for n in range(20)]
        # When a gateway begins to send
        with delivering(settings, ledger):
            told = {json.loads(site.came.get(timeout=30).body)["data"]["id"] for _ in alive}
            # Then the endpoint that lives was told all, while of the dead ones each holds its share
            assert told == set(alive)
            wait_until(lambda: len(dead.asked) >= share and len(dead_too.asked) >= share)
            assert {len(dead.asked), len(dead_too.asked)} == {share}
            silent.set()


def dead_origins(ledger: Ledger, port: int, tenant: str, number: int) -> None:
    for n in range(number):
        ended(ledger, f"http://127.0.1.{1 + n}:{port}/", tenant=tenant)


@pytest.mark.parametrize("known", [False, True], ids=["another tenant's", "known to answer"])
def test_hundreds_of_dead_origins_keep_no_other_waiting(
    ledger: Ledger, settings: Settings, site: Site, known: bool
) -> None:
    # Given a tenant with more dead origins than webhooks are sent at a time, and each of one webhook
    settings = settings.model_copy(update={"fetch_allow": ("127.0.0.0/8",)})
    url, spoken = f"http://127.0.0.1:{site.port}/", threading.Event()
    with Site(say_nothing_until(spoken), host="0.0.0.0") as dead:
        if known:
            ended(ledger, url, tenant="acme")
            send_due(deliverer(ledger, settings), Outbox(ledger))
            site.came.get()
        dead_origins(ledger, dead.port, "acme", 2 * settings.webhook_deliveries - 20)
        with delivering(settings, ledger):
            most = int(settings.webhook_deliveries * webhooks.PARTS[Standing.UNKNOWN] * webhooks.TENANT_PART)
            wait_until(lambda: len(dead.asked) >= most)
            # When a job ends whose origin is another tenant's, or has answered before
            job_id = ended(ledger, url, tenant="acme" if known else "zeta")
            told = json.loads(site.came.get(timeout=10).body)
            # Then it is told before any of the dead has had its time
            assert told["data"]["id"] == job_id
            assert len(dead.asked) == most
            spoken.set()


def test_a_new_origin_waits_for_a_few_of_the_dead_before_it_and_not_for_all(
    ledger: Ledger, settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given hundreds of dead origins in a pool without tenants, each of which has its time
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 1)
    settings = settings.model_copy(update={"fetch_allow": ("127.0.0.0/8",)})
    spoken = threading.Event()
    with Site(say_nothing_until(spoken), host="0.0.0.0") as dead:
        dead_origins(ledger, dead.port, "", 250)
        with delivering(settings, ledger):
            at_a_time = int(settings.webhook_deliveries * webhooks.PARTS[Standing.UNKNOWN] * webhooks.TENANT_PART)
            wait_until(lambda: len(dead.asked) >= at_a_time)
            # When a job ends whose origin is as unknown as they are
            ended(ledger, f"http://127.0.0.1:{site.port}/")
            # Then it is told with the next ones, not behind them all
            site.came.get(timeout=30)
            assert len(dead.asked) <= 2 * at_a_time
            spoken.set()


def test_an_origin_stands_by_its_last_try(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, url = deliverer(ledger, settings), f"http://127.0.0.1:{site.port}/"

    def stood(status: int, slow_s: float = 5) -> Standing:
        """How the origin stands when it is tried, and then answers with that status."""
        monkeypatch.setattr(webhooks, "SLOW_S", slow_s)
        site.answer = reply(status)
        make_due(ledger)
        taken = outbox.take()
        assert taken is not None
        sender.send(taken)
        return taken.standing

    jobs = [ended(ledger, url, tenant="acme") for _ in range(3)]
    # One that is unknown stays so while it fails at once, until it takes a webhook in time
    assert [stood(500), stood(500), stood(200)] == [Standing.UNKNOWN] * 3
    # It is good then, whatever fails at once, until it takes long, even if it takes what it is sent
    assert [stood(500), stood(204, slow_s=-1)] == [Standing.GOOD] * 2
    # It is slow then until it does not take long
    assert [stood(503, slow_s=-1), stood(503)] == [Standing.SLOW] * 2
    assert stood(200) is Standing.UNKNOWN
    assert {outbox.get(job).state for job in jobs} == {DeliveryState.DELIVERED}
    # In which row it is found tells when it was tried, and no other has it
    ended(ledger, url, tenant="acme")
    assert cast(list[bytes], ledger.redis.zrange(f"{ledger.namespace}:rows", 0, -1)) == [b"good:acme"]
    stood(204)
    assert not list(ledger.redis.scan_iter(f"{ledger.namespace}:row*"))


def test_what_is_full_gets_no_more_and_the_rest_does(ledger: Ledger, outbox: Outbox) -> None:
    for tenant in ("", "acme", "zeta"):
        ended(ledger, "https://a.example/", tenant=tenant)
    ended(ledger, "https://b.example/", tenant="acme")
    under_way = UnderWay(8)  # of which four to unknown origins, and two of them a tenant's

    def take() -> Taken | None:
        if taken := outbox.take(under_way.full()):
            under_way.begin(taken)
        return taken

    taken = [one for _ in range(4) if (one := take())]
    assert sorted(one.row for one in taken) == ["unknown:", "unknown:acme", "unknown:acme", "unknown:zeta"]
    # When the standing is full, and when a tenant has its part of it
    assert "unknown" in under_way.full()
    ended(ledger, "https://c.example/")
    assert take() is None
    under_way.end(next(one for one in taken if one.delivery.tenant == "zeta"))
    ended(ledger, "https://c.example/", tenant="acme")
    again = take()
    assert again is not None
    assert again.row == "unknown:"
    for one in [*taken, again]:
        if one.delivery.tenant != "zeta":
            under_way.end(one)
    assert not under_way.full()


@given(chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6), most=st.integers(1, 3))
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_by_whatever_chance_each_is_taken_once(settings: Settings, chances: list[float], most: int) -> None:
    namespace = {"namespace": f"t{uuid.uuid4().hex[:12]}"}
    ledger = Ledger(settings.model_copy(update=namespace))
    jobs = {ended(ledger, f"https://{n % most}.example/", tenant="acme" * (n % 2)) for n in range(6)}
    taken = [Outbox(ledger).take((), chance) for chance in chances]
    assert {one.delivery.job_id for one in taken if one} == jobs
    assert Outbox(ledger).take() is None
    ledger.close()


def test_who_dies_while_sending_loses_nothing_and_the_id_stays(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site
) -> None:
    # Given a process that is killed while the endpoint has what it sent, and has not answered
    hold = threading.Event()

    def wait(asked: Asked) -> Iterator[bytes]:
        hold.wait(60)
        yield from reply(200)(asked)

    site.answer = wait
    job_id = ended(ledger, f"http://127.0.0.1:{site.port}/")
    log = settings.data_dir / "deliver.log"
    process = Process("deliver", [*PYTHON, "-m", "producer.cli", "webhooks", "deliver"], log, as_environment(settings))
    try:
        first = site.came.get(timeout=60)
    finally:
        process.kill()
    hold.set()
    # Then nobody else has it as long as its lease holds
    assert outbox.take() is None
    assert due_in_s(ledger, job_id) == pytest.approx(LEASE_S, abs=20)
    assert outbox.get(job_id).state is DeliveryState.PENDING
    # When the lease is over
    make_due(ledger)
    assert send_due(deliverer(ledger, settings), outbox).state is DeliveryState.DELIVERED
    # Then it is sent again, as the same event
    second = site.came.get(timeout=10)
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)


def test_of_two_that_send_the_later_one_decides_but_a_success_counts(
    ledger: Ledger, settings: Settings, outbox: Outbox
) -> None:
    job_id = ended(ledger, "https://a.example/")
    late = outbox.take()
    make_due(ledger)
    current = outbox.take()
    assert late is not None
    assert current is not None
    again = Verdict(DeliveryState.PENDING, "It failed.", delay_s=5)
    assert not outbox.settle(late, again)
    assert outbox.settle(late, Verdict(DeliveryState.DELIVERED, "It came."))
    assert not outbox.settle(current, again)
    assert outbox.get(job_id).state is DeliveryState.DELIVERED
    assert ledger.totals()["webhooks_delivered"] == 1


def test_signatures_are_those_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/python/README.md."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    now = datetime.fromtimestamp(1614265330, UTC)
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', [secret], now)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_the_command_line_lists_and_replays(
    ledger: Ledger, settings: Settings, outbox: Outbox, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    site.answer = reply(410)
    dead = ended(ledger, f"http://127.0.0.1:{site.port}/hook?token=secret")
    send_due(deliverer(ledger, settings), outbox)
    waiting = ended(ledger, "https://hooks.example/")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["webhooks", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    shown = run("list")
    assert "410 Gone" in shown
    assert "secret" not in shown
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [waiting, dead]
    [row] = map(json.loads, run("list", "--state", "dead", "--format", "json").splitlines())
    assert (row["job_id"], row["attempts"]) == (dead, 1)
    run("replay", "--dead")
    assert (outbox.get(dead).state, outbox.get(dead).attempts) == (DeliveryState.PENDING, 0)
    with pytest.raises(NotFound):
        CliRunner().invoke(app, ["webhooks", "replay", "job_" + "0" * 32], catch_exceptions=False)


def test_a_gateway_sends_what_its_jobs_bring(settings: Settings, ledger: Ledger, site: Site) -> None:
    settings = settings.model_copy(update={"gateway_port": 0})
    with Served(settings) as served:
        url = f"http://127.0.0.1:{site.port}/hook"
        answer = served.http.post("/v1/jobs", files={"file": ("a.pdf", PDF)}, data={"webhook_url": url})
        assert answer.status_code == 202, answer.text
        served.http.delete(answer.headers["location"])
        told = verified(site.came.get(timeout=30), NEW)
        assert told["type"] == "job.cancelled"
        wait_until(lambda: 'ocrpool_webhooks_total{state="delivered"} 1.0' in served.http.get("/metrics").text)
        assert "ocrpool_pending_webhooks 0.0" in served.http.get("/metrics").text
