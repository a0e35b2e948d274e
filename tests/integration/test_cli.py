"""The command line as a user types it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from producer import Producer
from producer.ledger import Ledger
from producer.processes import free_port
from producer.settings import Settings, as_environment
from tests.documents import SAMPLES, character_f1, png, truth
from tests.http_site import Asked, Site, reply
from tests.s3_server import BUCKET, S3Server

OCRPOOL = [sys.executable, "-m", "producer.cli"]


def ocrpool(settings: Settings, *arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **as_environment(settings), "COLUMNS": "200"}
    command = [*OCRPOOL, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_read_uses_the_running_pool(pool: Producer) -> None:
    ran = ocrpool(pool.settings, "read", SAMPLES / "receipt.jpg")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("BLUEPINE COFFEE HOUSE\n")
    assert re.search(r"1 document, 1 page in [\d.]+ s \([\d.]+ pages/s\)", ran.stderr)
    assert "Starting a pool" not in ran.stderr


def test_read_starts_a_pool_of_its_own_where_none_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    alone = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", data_dir=tmp_path)
    page = tmp_path / "page.png"
    page.write_bytes(png("all alone"))

    ran = ocrpool(alone, "read", page, "--format", "json")

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["pages"][0]["text"] == "all alone"
    assert list(tmp_path.iterdir()) == [page]


def test_read_writes_one_file_a_document_and_says_which_failed(pool: Producer, tmp_path: Path) -> None:
    good, bad, text = tmp_path / "good.png", tmp_path / "bad.pdf", tmp_path / "text.png"
    good.write_bytes(png("good"))
    bad.write_bytes(b"%PDF-1.7\nnothing of a PDF follows")
    text.write_text("not a picture")

    ran = ocrpool(pool.settings, "read", text, good, bad, "--output", tmp_path / "texts")

    assert ran.returncode == 1
    assert re.search(r"^error: text\.png: .*\. \(unsupported_media_type\)$", ran.stderr, re.MULTILINE)
    assert re.search(r"^error: bad\.pdf: .*\. \(corrupt_document\)$", ran.stderr, re.MULTILINE)
    assert (tmp_path / "texts/good.png.txt").read_text() == "good\n"


def test_submit_status_result_cancel(pool: Producer, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(png("step by step"))

    job = ocrpool(pool.settings, "submit", page).stdout.strip()
    shown = ocrpool(pool.settings, "result", job, "--wait", "60")
    status = ocrpool(pool.settings, "status", job)
    cancelled = ocrpool(pool.settings, "cancel", job)

    assert shown.stdout == "step by step\n"
    assert status.stdout == f"{job}  succeeded  1 of 1 pages\n"
    assert cancelled.stdout == status.stdout, "a final job stays as it is"


def test_pages_with_text_of_their_own_need_not_be_read(pool: Producer) -> None:
    # Given a page that was printed, and one that was scanned
    ran = ocrpool(pool.settings, "read", SAMPLES / "report.pdf", "--pages", "3-4", "--pdf-text=auto", "--format=json")

    printed, scanned = json.loads(ran.stdout)["pages"]
    assert printed["text"].split() == truth(SAMPLES / "report.pdf")[2].split()
    assert (printed["source"], scanned["source"]) == ("pdf", "ocr")
    assert (printed["text_doubt"], scanned["text_doubt"]) == ("", "few_characters")
    assert character_f1(scanned["text"], truth(SAMPLES / "report.pdf")[3]) > 0.95


def test_submit_takes_the_addresses_of_documents(settings: Settings, ledger: Ledger, s3: S3Server) -> None:
    s3.client.put_object(Bucket=BUCKET, Key="inbox/b.png", Body=png("b"))
    with Site(reply(200, png("a"))) as site:
        ours = settings.model_copy(update={"fetch_allow": ("127.0.0.1",), "s3_sources": (f"s3://{BUCKET}/inbox",)})
        ran = ocrpool(ours, "submit", f"http://127.0.0.1:{site.port}/in/a.png?key=1", f"s3://{BUCKET}/inbox/b.png")
    assert ran.returncode == 0, ran.stderr
    assert [ledger.job(job_id).name for job_id in ran.stdout.split()] == ["a.png", "b.png"]


def test_read_takes_them_and_says_which_is_not_there(pool: Producer) -> None:
    def answer(asked: Asked) -> Iterable[bytes]:
        return (reply(200, png("from afar")) if asked.path == "/a.png" else reply(404))(asked)

    with Site(answer) as site:
        ours = pool.settings.model_copy(update={"fetch_allow": ("127.0.0.1",)})
        url = f"http://127.0.0.1:{site.port}"
        ran = ocrpool(ours, "read", f"{url}/gone.png?token=abc", f"{url}/a.png")
    assert ran.returncode == 1
    assert "from afar" in ran.stdout
    assert re.search(r"^error: gone\.png: url: 127\.0\.0\.1 answered 404\. \(fetch_failed\)$", ran.stderr, re.MULTILINE)
    assert "abc" not in ran.stderr


def test_settings_hide_secrets_unless_they_are_asked_for() -> None:
    secrets = {
        "OCRPOOL_REDIS_URL": "rediss://user:hidden-1@redis.internal/0",
        "OCRPOOL_WEBHOOK_SECRETS": "whsec_" + base64.b64encode(b"hidden-2" * 4).decode(),
        "OCRPOOL_SIGNING_KEY": "hidden-3",
        "OCRPOOL_FLOWER_BASIC_AUTH": "admin:hidden-4",
    }
    hidden = {"hidden-1", secrets["OCRPOOL_WEBHOOK_SECRETS"], "hidden-3", "hidden-4"}
    env = {**os.environ, **secrets, "OCRPOOL_FETCH_ALLOW": "10.0.0.0/8,files.internal"}

    def shown(*options: str) -> str:
        command = [*OCRPOOL, "settings", *options]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout

    assert not [secret for secret in hidden if secret in shown()]
    assert "OCRPOOL_REDIS_URL=rediss://user:***@redis.internal/0\n" in shown()
    assert "OCRPOOL_SIGNING_KEY=***\n" in shown()
    assert "OCRPOOL_FETCH_ALLOW=10.0.0.0/8,files.internal\n" in shown()
    assert all(f"{name}={value}\n" in shown("--show-secrets") for name, value in secrets.items())


def test_no_message_tells_the_password_of_redis(tmp_path: Path) -> None:
    nowhere = Settings(redis_url=f"redis://:hidden@127.0.0.1:{free_port()}/0", data_dir=tmp_path)
    for command in (["status", "job_" + 32 * "0"], ["pool", "--workers", "1"]):
        ran = ocrpool(nowhere, *command)
        assert ran.returncode == 1
        assert "redis://:***@127.0.0.1:" in ran.stderr
        assert "hidden" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["status", "job_" + 32 * "0"], "There is no job job_0.*not_found"),
        (["submit", "/no/such/file.png"], "/no/such/file.png cannot be read: No such file.*invalid_request"),
        (["read", "/no/such/file.png"], "/no/such/file.png is not a file. .invalid_request."),
    ],
)
def test_an_error_is_one_line(pool: Producer, arguments: list[str], error: str) -> None:
    ran = ocrpool(pool.settings, *arguments)
    assert ran.returncode == 1
    assert re.fullmatch(f"error: {error}.*\n", ran.stderr)


def test_no_pool_is_one_line_too(tmp_path: Path) -> None:
    nowhere = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", data_dir=tmp_path)
    ran = ocrpool(nowhere, "status", "job_" + 32 * "0")
    assert ran.returncode == 1
    assert re.fullmatch(r"error: No pool answers at .*: start one with `ocrpool up`.*\n", ran.stderr)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**os.environ, "OCRPOOL_PDF_DPI": "many"}
    ran = subprocess.run([*OCRPOOL, "settings"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: OCRPOOL_PDF_DPI: ")


@contextmanager
def up(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, **as_environment(settings), "COLUMNS": "200"}
    running = subprocess.Popen([*OCRPOOL, "up", *arguments], env=env, stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=90) == 0
        assert running.stderr is not None
        running.stderr.close()


def test_up_runs_every_part_until_ctrl_c(tmp_path: Path) -> None:
    redis_port = free_port()
    settings = Settings(
        redis_url=f"redis://127.0.0.1:{redis_port}/0", data_dir=tmp_path, gateway_port=0, flower_port=free_port()
    )
    with up(settings, "--flower") as running:
        assert running.stderr is not None
        addresses = {}
        for line in running.stderr:
            if found := re.match(r"\s+(gateway|Flower|logs)\s+(\S+)", line):
                addresses[found[1]] = found[2]
            if "logs" in addresses:
                break
        answer = httpx.post(f"{addresses['gateway']}/ocr", files={"file": png("over HTTP")}, timeout=60)
        assert answer.json()["result"]["pages"][0]["text"] == "over HTTP"
        assert httpx.get(f"{addresses['gateway']}/readyz").status_code == 200
        assert "ocrpool_" in httpx.get(f"{addresses['gateway']}/metrics").text
        assert httpx.get(f"{addresses['Flower']}/healthcheck", timeout=60).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{addresses['gateway']}/healthz")


def test_flower_beyond_loopback_needs_a_password(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", data_dir=tmp_path, flower_host="0.0.0.0")
    ran = ocrpool(settings, "up", "--flower")
    assert ran.returncode == 1
    assert "OCRPOOL_FLOWER_BASIC_AUTH" in ran.stderr
