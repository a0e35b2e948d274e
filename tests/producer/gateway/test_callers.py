"""API keys and tenants, as clients of a real gateway see them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from producer.api_keys import ApiKeys, key_id
from producer.errors import NotFound, QuotaExceeded
from producer.gateway import callers, guesses
from producer.gateway.guesses import Guesses
from producer.gateway.server import who_may_ask
from producer.job import new_job_id
from producer.ledger import Ledger
from producer.limits import Limits
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


def operations(http: httpx.Client) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every documented operation, whoever added it."""
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_but_those_for_machines_asks_for_a_key(http: httpx.Client, keys: ApiKeys) -> None:
    _, key = keys.create("somebody", "")
    revoked, old = keys.create("somebody else", "")
    keys.revoke(revoked.id)
    asking = 0
    for method, template, operation in operations(http):
        path = template.replace("{job_id}", new_job_id()).replace("{page}", "1")
        if "operations" in operation["tags"]:
            assert "security" not in operation
            assert http.request(method, path).status_code in (200, 503)
            continue
        asking += 1
        assert operation["security"] == [{"ApiKey": []}]
        assert {"401", "429"} <= set(operation["responses"])
        wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
        for headers in ({}, bearer(wrong), bearer(old), {"Authorization": f"Basic {key}"}, {"Authorization": key}):
            answer = http.request(method, path, headers=headers)
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == 'Bearer realm="ocrpool"'
        assert http.request(method, path, headers=bearer(key)).status_code not in (401, 429)
    assert asking >= 5


def test_what_has_not_even_the_form_of_an_id_is_told_to_callers_alone(http: httpx.Client, acme: httpx.Client) -> None:
    assert_problem(http.get("/v1/jobs/none"), 401, "unauthorized")
    assert_problem(acme.get("/v1/jobs/none"), 404, "not_found")


def test_anothers_job_is_no_job_on_every_route(http: httpx.Client, acme: httpx.Client, other: httpx.Client) -> None:
    job_id, nobodys = submit(acme), new_job_id()
    assert acme.get(f"/v1/jobs/{job_id}").status_code == 200

    def answer(client: httpx.Client, method: str, path: str, id: str) -> tuple[int, str, list[str]]:
        url = path.replace("{job_id}", id).replace("{page}", "1")
        got = client.request(method, url, params={"wait": 0.01} if method == "GET" else None)
        return got.status_code, got.text.replace(id, "ID"), sorted(got.headers)

    routes = [(method, path) for method, path, _ in operations(http) if "{job_id}" in path]
    assert len(routes) >= 3
    for method, path in routes:
        theirs = answer(other, method, path, job_id)
        assert theirs == answer(other, method, path, nobodys)
        assert theirs[0] == 404
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
