"""`ocrpool keys` and `ocrpool tenants`, as an operator types them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from producer import Producer
from producer.api_keys import ApiKeys
from producer.cli import app
from producer.errors import InvalidRequest, NotFound
from producer.settings import Settings, as_environment
from tests.documents import png


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)


def ocrpool(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_keys_are_made_listed_and_revoked(idle_pool: Producer) -> None:
    key = ocrpool("keys", "create", "invoice service", "--tenant", "acme").strip()
    second = json.loads(ocrpool("keys", "create", "bell\x07", "--format", "json"))
    found = ApiKeys(idle_pool.ledger).find(key)
    assert found is not None
    assert (found.name, found.tenant) == ("invoice service", "acme")
    assert ApiKeys(idle_pool.ledger).find(second["key"]) is not None

    table = ocrpool("keys", "list")
    rows = [json.loads(line) for line in ocrpool("keys", "list", "--format", "json").splitlines()]
    assert {(row["id"], row["tenant"], row["used_at"]) for row in rows} == {
        (found.id, "acme", None),
        (second["id"], "", None),
    }
    assert all(word in table for word in ("invoice service", "acme", found.id, "never", "bell\\x07"))
    assert key.rpartition("_")[2] not in table + str(rows)
    assert found.digest not in table + str(rows)

    ocrpool("keys", "revoke", found.id, second["id"])
    assert ApiKeys(idle_pool.ledger).find(key) is None
    assert ocrpool("keys", "list", "--format", "json") == ""
    with pytest.raises(NotFound):
        ocrpool("keys", "revoke", found.id)


def test_a_key_has_a_name(idle_pool: Producer) -> None:
    for name in ("", " "):
        with pytest.raises(InvalidRequest, match="name"):
            ocrpool("keys", "create", name)
    assert ApiKeys(idle_pool.ledger).all() == []


def test_limits_are_set_one_by_one_and_set_back(idle_pool: Producer) -> None:
    def limits() -> dict[str, float]:
        shown = json.loads(ocrpool("tenants", "show", "acme", "--format", "json"))
        return {name: most for name, most in shown["limits"].items() if most is not None}

    idle_pool.of_tenant("acme").submit(png("a page"))
    ocrpool("tenants", "set", "acme", "--max-queued-pages", "10")
    ocrpool("tenants", "set", "acme", "--max-document-bytes", "0")
    assert limits() == {"max_queued_pages": 10, "max_document_bytes": 0}
    (acme,) = [json.loads(line) for line in ocrpool("tenants", "list", "--format", "json").splitlines()]
    assert (acme["tenant"], acme["unfinished_jobs"], acme["queued_pages"]) == ("acme", 1, 1)
    ocrpool("tenants", "set", "acme", "--defaults", "--max-requests-per-s", "0.5")
    assert limits() == {"max_requests_per_s": 0.5}
    ocrpool("tenants", "set", "acme", "--defaults")
    assert limits() == {}


@pytest.mark.parametrize("name", ["Acme", "two words", "a:b", "-", "x" * 65])
def test_what_cannot_be_a_tenants_name_is_refused(name: str, idle_pool: Producer) -> None:
    with pytest.raises(InvalidRequest, match="tenant's name"):
        ocrpool("keys", "create", "somebody", f"--tenant={name}")
    assert ApiKeys(idle_pool.ledger).all() == []
