"""API keys and tenants, as clients of a real gateway see them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from producer.api_keys import ApiKeys, key_id
from producer.errors import NotFound, QuotaExceeded, Unauthorized
from producer.gateway import callers, guesses
from producer.gateway.guesses import Guesses
from producer.gateway.server import who_may_ask
from producer.job import new_job_id
from producer.ledger import Ledger
from producer.limits import Limits
from producer.producer import JobHandle, Producer
from producer.settings import Settings
from producer.tenants import Tenants
from tests.producer.gateway.serving import PDF, PNG, Served, assert_problem, read_pages, submit

FILE = {"file": ("page.png", PNG)}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_keys": "on"})


@pytest.fixture
def keys(ledger: Ledger) -> ApiKeys:
    return ApiKeys(ledger)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def acme(served: Served, keys: ApiKeys) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, headers=bearer(keys.create("a", "acme")[1]), timeout=60) as client:
        yield client


@pytest.fixture
def other(served: Served, keys: ApiKeys) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, headers=bearer(keys.create("b", "other")[1]), timeout=60) as client:
        yield client


#: Their addresses carry a signature, which stands for the key of whoever asked for them.
SIGNED = {"/api/v2/ocr/jobs/{job_id}/result.jsonl", "/api/v2/ocr/jobs/{job_id}/pages/{page}.png"}


def operations(http: httpx.Client) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every documented operation, whoever added it."""
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_but_those_for_machines_asks_for_a_key(
    http: httpx.Client, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "FREE", 1000)
    _, key = keys.create("somebody", "")
    revoked, old = keys.create("somebody else", "")
    keys.revoke(revoked.id)
    asking = 0
    for method, template, operation in operations(http):
        path = template.replace("{job_id}", new_job_id()).replace("{page}", "1").replace("{batch_id}", "batch_17")
        if "operations" in operation["tags"]:
            assert "security" not in operation
            assert http.request(method, path).status_code in (200, 503)
            continue
        if template in SIGNED:
            assert "security" not in operation
            assert http.request(method, path, headers=bearer(key)).status_code in (400, 403)
            continue
        asking += 1
        assert operation["security"] == [{"ApiKey": []}]
        assert {"401", "429"} <= set(operation["responses"])
        wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
        for headers in ({}, bearer(wrong), bearer(old), {"Authorization": f"Basic {key}"}, {"Authorization": key}):
            answer = http.request(method, path, headers=headers)
            if path.startswith("/v1"):
                assert_problem(answer, 401, "unauthorized")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="ocrpool"'
        assert http.request(method, path, headers=bearer(key)).status_code not in (401, 429)
    assert asking >= 5


def test_what_has_not_even_the_form_of_an_id_is_told_to_callers_alone(http: httpx.Client, acme: httpx.Client) -> None:
    asked = 0
    for method, template, _ in operations(http):
        if "_id}" not in template or template in SIGNED:
            continue
        asked += 1
        path = template.replace("{job_id}", "none").replace("{batch_id}", "no%20ne").replace("{page}", "1")
        stranger, caller = http.request(method, path), acme.request(method, path)
        assert (stranger.status_code, caller.status_code) == (401, 404)
        if path.startswith("/v1"):
            assert_problem(stranger, 401, "unauthorized")
            assert_problem(caller, 404, "not_found")
    assert asked >= 9


def test_anothers_job_is_no_job_on_every_route(http: httpx.Client, acme: httpx.Client, other: httpx.Client) -> None:
    job_id, nobodys = submit(acme), new_job_id()
    batch = acme.post("/v1/batches", files=FILE).json()["id"]
    assert acme.get(f"/v1/jobs/{job_id}").status_code == acme.get(f"/v1/batches/{batch}").status_code == 200

    def answer(client: httpx.Client, method: str, path: str, id: str) -> tuple[int, str, list[str]]:
        url = path.replace("{page}", "1")
        got = client.request(method, url, params={"wait": 0.01} if method == "GET" else None)
        text = re.sub(r'"logId": ?"[^"]*"', "", got.text)
        return got.status_code, text.replace(id, "ID"), sorted(got.headers)

    ids = {"{job_id}": (job_id, nobodys), "{batch_id}": (batch, "batch_" + "0" * 32)}
    asked = 0
    for method, path, _ in operations(http):
        for part in (part for part in ids if part in path):
            asked += 1
            theirs, nothing = (answer(other, method, path.replace(part, id), id) for id in ids[part])
            assert theirs == nothing
            assert theirs[0] == (400 if path in SIGNED else 404)
    assert asked >= 8
    assert acme.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"


def test_a_tenant_has_its_jobs_its_results_and_its_idempotency_keys(
    acme: httpx.Client, other: httpx.Client, ledger: Ledger
) -> None:
    again = {"Idempotency-Key": "a-17"}
    first = acme.post("/v1/jobs", files=FILE, headers=again).json()["id"]
    assert other.post("/v1/jobs", files=FILE, headers=again).json()["id"] != first
    assert acme.post("/v1/jobs", files=FILE, headers=again).json()["id"] == first
    read_pages(ledger, first)
    assert acme.get(f"/v1/jobs/{first}", params={"wait": 60}).json()["state"] == "succeeded"
    assert acme.get(f"/v1/jobs/{first}/result").json()["pages"]
    assert "acme" not in acme.get(f"/v1/jobs/{first}").text


def test_a_tenant_has_its_lists_and_its_batches(acme: httpx.Client, other: httpx.Client, ledger: Ledger) -> None:
    batch = acme.post("/v1/batches", files=FILE)
    assert batch.status_code == 202
    ours, theirs = [batch.json()["documents"][0]["job"]["id"], submit(acme)], submit(other)
    read_pages(ledger, ours[0])

    def listed(client: httpx.Client, **params: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["jobs"]]

    assert listed(acme) == ours[::-1]
    assert listed(acme, state="succeeded") == ours[:1]
    assert (listed(other), listed(other, state="succeeded")) == ([theirs], [])
    address, nobodys = batch.headers["location"], "/v1/batches/batch_17"
    assert acme.get(address).json()["states"] == {"succeeded": 1}
    assert_problem(other.get(address), 404, "not_found")
    assert other.get(address).json() == other.get(nobodys).json()


def test_batches_of_the_same_name_are_each_tenants_own_and_the_pool_sees_every_job(
    settings: Settings, ledger: Ledger
) -> None:
    with Producer(settings) as everybody:
        tenants = [everybody.of_tenant(name) for name in ("", "acme", "other")]
        handles = [tenant.submit_all([PNG], batch="nightly")[0] for tenant in tenants]
        ids = [handle.id for handle in handles if isinstance(handle, JobHandle)]
        assert [[job.id for job in tenant.batch("nightly")] for tenant in tenants] == [[id] for id in ids]
        assert [[job.id for job in tenant.jobs()] for tenant in tenants] == [[id] for id in ids]
        assert [job.id for job in everybody.jobs()] == ids[::-1]
        # Tenants take turns: each other's first document may come before one's own.
        assert [tenant.batch("nightly")[0].queue_position for tenant in tenants] == [2, 2, 2]
        # One whose record is gone leaves its tenant's list as the pool's
        ledger.redis.delete(f"{ledger.namespace}:job:{ids[1]}")
        assert ledger.forget_jobs() == 1
        assert not ledger.redis.exists(f"{ledger.namespace}:index:queued:acme")
        assert [job.id for job in everybody.jobs()] == [ids[2], ids[0]]


def test_a_retry_is_the_tenants_and_measured_by_its_limits(
    acme: httpx.Client, other: httpx.Client, ledger: Ledger
) -> None:
    failed = submit(acme)
    read_pages(ledger, failed, failing={1})
    Tenants(ledger).set_limits("acme", Limits(max_unfinished_jobs=1))
    second = submit(acme)
    assert_problem(acme.post(f"/v1/jobs/{failed}/retry"), 429, "quota_exceeded")
    acme.delete(f"/v1/jobs/{second}")
    assert_problem(other.post(f"/v1/jobs/{failed}/retry"), 404, "not_found")
    retried = acme.post(f"/v1/jobs/{failed}/retry")
    assert (retried.status_code, retried.json()["retry_of"]) == (202, failed)
    assert Tenants(ledger).usage("acme").queued_pages == 1
    assert_problem(other.get(retried.headers["location"]), 404, "not_found")


def test_a_key_ends_when_it_is_revoked(acme: httpx.Client, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    job = f"/v1/jobs/{submit(acme)}"
    ((key, used_at),) = keys.all()
    assert used_at is not None
    assert 0 <= used_at - key.created_at + 60 < 180
    keys.revoke(key.id)
    assert acme.get(job).status_code == 200, "a key that was just looked up is not looked up again"
    monkeypatch.setattr(callers, "FRESH_S", -1.0)
    acme.headers.update(bearer(keys.create("a new one", "acme")[1]))
    assert acme.get(job).status_code == 200
    keys.revoke(next(key.id for key, _ in keys.all()))
    assert_problem(acme.get(job), 401, "unauthorized")
    with pytest.raises(NotFound):
        keys.revoke(key.id)
    assert keys.all() == []


def test_of_a_key_only_a_digest_is_kept(keys: ApiKeys, ledger: Ledger) -> None:
    key, text = keys.create("somebody", "acme")
    assert re.fullmatch(rf"ocrp_{key.id}_[0-9a-f]{{32}}", text)
    assert key_id(text) == key.id
    secret = text.rpartition("_")[2]
    for name in ledger.redis.scan_iter(f"{ledger.namespace}:*"):
        assert secret.encode() not in (ledger.redis.dump(name) or b"")
        if ledger.redis.type(name) == b"hash":
            assert secret not in str(ledger.redis.hgetall(name))
    assert keys.find(text) == key
    assert keys.find(text.replace(secret, "0" * 32)) is None
    assert keys.find(f"ocrp_{'0' * 12}_{secret}") is None
    assert keys.find("") is None


def test_guesses_are_slowed_and_good_keys_of_the_same_address_are_not(
    http: httpx.Client, acme: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a key that has been good, and a neighbour who tries keys out
    assert acme.get(f"/v1/jobs/{new_job_id()}").status_code == 404
    monkeypatch.setattr(guesses, "WAIT_S", (3600.0, 3600.0))
    monkeypatch.setattr(guesses, "WAITING", 0)
    monkeypatch.setattr(callers, "FRESH_S", -1.0)
    for _ in range(guesses.FREE + 1):
        assert_problem(http.get(f"/v1/jobs/{new_job_id()}", headers=bearer("guess")), 401, "unauthorized")
    # Then the next guess is not looked at, and says when it may be
    refused = http.get(f"/v1/jobs/{new_job_id()}", headers=bearer("guess"))
    assert_problem(refused, 429, "quota_exceeded")
    assert refused.headers["retry-after"] == "3600"
    # And the good key, and who sends none, are answered as before
    assert acme.get(f"/v1/jobs/{new_job_id()}").status_code == 404
    assert_problem(http.get(f"/v1/jobs/{new_job_id()}"), 401, "unauthorized")


def test_waits_double_are_forgotten_and_belong_to_one_address() -> None:
    now = [1000.0]
    tried = Guesses(clock=lambda: now[0])
    waits = []
    for _ in range(guesses.FREE + 12):
        tried.failed("2001:db8::1")
        waits.append(tried.wait_s("2001:db8::ffff"))
    first, longest = guesses.WAIT_S
    assert waits[: guesses.FREE] == [0] * guesses.FREE
    assert waits[guesses.FREE :][:3] == [first, 2 * first, 4 * first]
    assert waits[-1] == longest
    assert tried.wait_s("2001:db8:0:1::1") == tried.wait_s("192.0.2.1") == 0
    now[0] += guesses.FORGET_S + 1
    assert tried.wait_s("2001:db8::1") == 0
    tried.failed("2001:db8::1")
    assert tried.wait_s("2001:db8::1") == 0


@pytest.mark.parametrize(("trusted", "seen"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")])
def test_whose_request_it_is_a_trusted_proxy_alone_can_say(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], seen: str
) -> None:
    asked: list[str] = []

    async def identify(self: callers.Callers, key: str | None, address: str) -> callers.Caller:
        asked.append(address)
        raise Unauthorized

    monkeypatch.setattr(callers.Callers, "identify", identify)
    with Served(settings.model_copy(update={"trusted_proxies": trusted})) as served:
        served.http.get("/v1/jobs", headers={"X-Forwarded-For": "203.0.113.9"})
    assert asked == [seen]


def test_what_is_known_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "ADDRESSES", 3)
    tried = Guesses()
    for address in ("a", "b", "a", "c", "d"):
        tried.failed(address)
    assert list(tried._guessers) == ["a", "c", "d"]


def test_few_of_one_address_wait_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Guesses()
    for _ in range(guesses.FREE + 1):
        tried.failed("a")

    async def crowd() -> list[object]:
        may_go = asyncio.Event()
        monkeypatch.setattr(asyncio, "sleep", lambda _: may_go.wait())

        async def guess() -> None:
            async with tried.slowed("a"):
                pass

        waiting = [asyncio.create_task(guess()) for _ in range(guesses.WAITING + 2)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 2
        may_go.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    verdicts = asyncio.run(crowd())
    assert [type(verdict) for verdict in verdicts].count(QuotaExceeded) == 2


def test_limits_of_a_tenant_are_told_with_the_time_to_come_back(
    acme: httpx.Client, other: httpx.Client, ledger: Ledger
) -> None:
    ledger.redis.hset(f"{ledger.namespace}:pace", "rate", 100)
    limits = Limits(max_unfinished_jobs=1, max_document_bytes=1000)
    Tenants(ledger).set_limits("acme", limits)
    assert_problem(acme.post("/v1/jobs", files={"file": ("big.pdf", PDF + b"\0" * 1000)}), 413, "too_large")
    job_id = submit(acme)
    refused = acme.post("/v1/jobs", files=FILE)
    problem = assert_problem(refused, 429, "quota_exceeded")
    assert refused.headers["retry-after"] == "10"
    assert problem["detail"].startswith("max_unfinished_jobs: ")
    assert [blob.name for blob in ledger.settings.blob_dir.rglob("job_*") if blob.is_file()] == [job_id]
    for _ in range(2):
        submit(other)
    acme.delete(f"/v1/jobs/{job_id}")
    submit(acme)


def test_who_asks_too_often_is_told_before_the_document_is_read(
    acme: httpx.Client, other: httpx.Client, ledger: Ledger
) -> None:
    Tenants(ledger).set_limits("acme", Limits(max_requests_per_s=0.01))
    job = f"/v1/jobs/{submit(acme)}"
    for refused in (acme.get(job), acme.post("/v1/jobs", files=FILE)):
        assert_problem(refused, 429, "quota_exceeded")
        assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert ledger.totals()["jobs_accepted"] == 1
    assert other.get(job).status_code == 404


def test_where_no_key_is_asked_for_any_is_taken(settings: Settings, ledger: Ledger) -> None:
    with Served(settings.model_copy(update={"api_keys": "auto"})) as served:
        job_id = submit(served.http)
        assert served.http.get(f"/v1/jobs/{job_id}", headers=bearer("any")).status_code == 200
        theirs = served.gateway.producer.producer.of_tenant("acme").submit(PNG)
        assert_problem(served.http.get(f"/v1/jobs/{theirs.id}"), 404, "not_found")


@pytest.mark.parametrize(
    ("host", "choice", "asks"),
    [
        ("127.0.0.1", "auto", False),
        ("127.8.8.8", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("localhost", "on", True),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("192.168.1.7", "auto", True),
        ("gateway.example", "auto", True),
        ("0.0.0.0", "off", False),
    ],
)
def test_keys_are_asked_for_wherever_others_may_come_from(host: str, choice: str, asks: bool) -> None:
    settings = Settings.model_validate({"gateway_host": host, "api_keys": choice})
    assert settings.asks_for_keys is asks
    assert ("need an API key" in who_may_ask(settings)) is asks
    assert f"OCRPOOL_API_KEYS={choice}" in who_may_ask(settings)
