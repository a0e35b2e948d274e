"""Settings: from the environment, checked where they are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from producer.settings import SECRETS, Settings, as_environment, as_shown, explain, unknown_variables


def test_the_environment_of_a_child_process_gives_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(detector_sizes=((960, 736), (736, 960)), recogniser_batches=(1, 4), max_delay_ms=5, model="x")
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pdf_dpi", "many"),
        ("detector_sizes", "100x100"),
        ("detector_sizes", "96"),
        ("recogniser_batches", "0"),
        ("redis_url", "localhost"),
        ("blob_url", "file://relative/folder"),
        ("blob_url", "s3://Bucket"),
        ("blob_url", "s3:///prefix"),
        ("s3_sources", "s3://scans,https://scans.example"),
        ("s3_public_url", "files.example.com"),
        ("lease_s", "6"),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"OCRPOOL_{name.upper()}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_documents_do_not_come_from_where_the_pool_keeps_its_own() -> None:
    for blob_url, source in (("s3://scans", "s3://scans/inbox"), ("s3://scans/own/", "s3://scans/own")):
        with pytest.raises(ValidationError, match="OCRPOOL_S3_SOURCES must not lie in OCRPOOL_BLOB_URL"):
            Settings(blob_url=blob_url, s3_sources=(source,))
    Settings(blob_url="s3://scans/own", s3_sources=("s3://scans", "s3://scans/owned"))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("OCRPOOL_PDF_DPI", "many", "OCRPOOL_PDF_DPI: Input should be a valid integer"),
        ("OCRPOOL_REDIS_URL", "localhost", "OCRPOOL_REDIS_URL: the URL of a Redis server, such as redis://"),
        ("OCRPOOL_LEASE_S", "6", "OCRPOOL_LEASE_S must be at least twice OCRPOOL_LEASE_RENEW_S"),
        (
            "OCRPOOL_REDIS_URL",
            "redis+sentinel://host1",
            "OCRPOOL_REDIS_URL: the URL of a Redis server, such as redis://",
        ),
        ("OCRPOOL_DURABLE_REPLICAS", "1", "OCRPOOL_DURABLE_REPLICAS needs OCRPOOL_DURABLE=1"),
        ("OCRPOOL_SWEEP_INTERVAL_S", "8", "OCRPOOL_LEASE_S must be at least twice OCRPOOL_SWEEP_INTERVAL_S"),
    ],
)
def test_a_wrong_value_is_explained_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (explained,) = explain(caught.value)
    assert explained.startswith(sentence)


def test_a_misspelt_variable_is_told() -> None:
    assert unknown_variables({"OCRPOOL_GATEWAY_PROT": "1", "OCRPOOL_GATEWAY_PORT": "1", "PATH": ""}) == [
        "OCRPOOL_GATEWAY_PROT is not a setting; did you mean OCRPOOL_GATEWAY_PORT?"
    ]


def test_what_is_named_like_a_secret_is_not_shown() -> None:
    named = {name for name in Settings.model_fields if re.search(r"secret|password|auth|signing", name)}
    assert named == SECRETS
    assert {as_shown(name, "hidden") for name in SECRETS} == {"***"}
    assert as_shown("webhook_secrets", ()) == as_shown("signing_key", "") == ""
    assert as_shown("webhook_secrets", ("whsec_a", "whsec_b")) == "***"


def test_folders_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("pool")).blob_dir == tmp_path / "pool/blobs"
    assert Settings(blob_url="file:///srv/blobs").blob_dir == Path("/srv/blobs")
