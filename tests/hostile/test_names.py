"""Names that mean harm: no path, log line, terminal or response header gets them as they came."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from producer import Producer
from producer.cli import app
from producer.errors import InvalidRequest
from producer.escaping import NAME_CHARS
from producer.formats import Format
from producer.job import Job, JobResult, JobState, MediaType, new_job_id
from producer.ledger import Ledger
from producer.printing import OutputFolder, print_result
from producer.settings import Settings, as_environment
from tests.producer.gateway.serving import PNG, Served, assert_problem

#: What is sent -> what is shown of it; None: it is refused.
NAMES: dict[str, tuple[str, str | None]] = {
    "folders": ("../../x.png", "x.png"),
    "folders of Windows": ("C:\\scans\\..\\x.png", "x.png"),
    "NUL": ("a\0b.png", "ab.png"),
    "a terminal's commands": ("\x1b]0;owned\x07\x1b[2Jx.png", "]0;owned[2Jx.png"),
    "lines": ("a\r\nSet-Cookie: b\n\u2028{}", "aSet-Cookie: b{}"),
    "right to left": ("a\u202egnp.exe", "agnp.exe"),
    "of another alphabet": ("发票 №7.pdf", "发票 №7.pdf"),
    "4 KB": ("n" * 4096, None),
}


def form(disposition: bytes, field: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """A form whose file has this disposition, and the value of its field `name`. As no honest client writes them."""
    part = b"--x\r\nContent-Disposition: form-data; "
    body = part + disposition + b"\r\n\r\n" + PNG + b"\r\n"
    if field:
        body += part + b'name="name"\r\n\r\n' + field + b"\r\n"
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def as_file_name(http: httpx.Client, name: str) -> httpx.Response:
    body, headers = form(b'name="file"; filename="' + name.encode() + b'"')
    return http.post("/v1/jobs", content=body, headers=headers)


def as_field(http: httpx.Client, name: str) -> httpx.Response:
    body, headers = form(b'name="file"; filename="a.png"', name.encode())
    return http.post("/v1/jobs", content=body, headers=headers)


def as_json(http: httpx.Client, name: str) -> httpx.Response:
    return http.post("/v1/jobs", json={"document": base64.b64encode(PNG).decode(), "name": name})


def assert_only_blobs(settings: Settings) -> None:
    """No file was made but blobs, under names of ours."""
    for path in settings.data_dir.rglob("*"):
        assert path.is_dir() or re.fullmatch(r"job_[0-9a-f]{32}", path.name)
    assert not (settings.data_dir.parent / "x.png").exists()


@pytest.mark.parametrize("way", [as_file_name, as_field, as_json])
@pytest.mark.parametrize("kind", NAMES)
def test_over_http(settings: Settings, way: Callable[[httpx.Client, str], httpx.Response], kind: str) -> None:
    name, shown = NAMES[kind]
    with Served(settings) as served:
        answer = way(served.http, name)
        if shown is None and way is as_file_name:
            assert answer.json()["name"] == name[:NAME_CHARS]
        elif shown is None:
            assert "name: " in assert_problem(answer, 422, "invalid_request")["detail"]
        elif way is as_file_name and "\n" in name:
            assert answer.json()["name"] == '"a'  # the header of the part ended there
        else:
            assert answer.json()["name"] == shown
    assert all(value.isprintable() and "x.png" not in value for value in answer.headers.values())
    assert "set-cookie" not in answer.headers
    assert_only_blobs(settings)


def test_a_field_that_nobody_knows_is_told_in_short(settings: Settings) -> None:
    with Served(settings) as served:
        name = "\n\x1b[2J" + "n" * 10_000
        for body in ({"document": "YWJj", name: 1}, {"document": "YWJj", "options": {name: 1}}):
            detail = assert_problem(served.http.post("/v1/jobs", json=body), 422, "invalid_request")["detail"]
            assert detail.isprintable()
            assert "\\n\\x1b[2Jnnn" in detail
            assert len(detail) < 200


def test_half_a_character_is_no_name(settings: Settings) -> None:
    body = json.dumps({"document": base64.b64encode(PNG).decode(), "name": "\ud800"})
    with Served(settings) as served:
        answer = served.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, "invalid_request")
        assert as_file_name(served.http, "a").json()["name"] == "a"


@pytest.mark.parametrize("kind", NAMES)
def test_from_python(idle_pool: Producer, kind: str) -> None:
    name, shown = NAMES[kind]
    if shown is None:
        with pytest.raises(InvalidRequest, match=f"name: at most {NAME_CHARS}"):
            idle_pool.submit(PNG, name=name)
    else:
        assert idle_pool.submit(PNG, name=name).status().name == shown
    assert_only_blobs(idle_pool.settings)


@pytest.mark.parametrize("path", ["a\0b.png", "n" * 4096, "../" * 300 + "x.png"])
def test_a_path_that_is_none_is_refused(idle_pool: Producer, path: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        idle_pool.submit(path)


@pytest.mark.parametrize(
    "name",
    [b"\x1b[2Jx.png", b"a\nerror: forged.png", b"\xff\xfe.png", b"n" * 255],
    ids=["ansi", "line", "bytes", "long"],
)
def test_from_the_command_line(settings: Settings, name: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(os.fsencode(folder), name)
        Path(os.fsdecode(path)).write_bytes(PNG)
        missing = path[:-1]
        command = [sys.executable, "-m", "producer.cli", "submit"]
        environment = {**os.environ, **as_environment(settings)}
        ran = subprocess.run([*command, path], env=environment, capture_output=True, text=True, check=True)
        failed = [
            subprocess.run([*command[:-1], verb, missing], env=environment, capture_output=True, text=True, check=False)
            for verb in ("submit", "read")
        ]
    with Producer(settings) as producer:
        assert producer.status(ran.stdout.strip()).name.isprintable()
    for said in failed:
        assert said.returncode == 1
        assert said.stderr.startswith("error: ")
        assert said.stderr.removesuffix("\n").isprintable()
    assert_only_blobs(settings)


#: What a record may hold that no producer of ours has written.
RAW = "../\x1b[2J\nforged\x07\u202e.png"


def test_no_command_shows_a_record_as_it_came(
    ledger: Ledger,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given a job, and a dead letter, with words of a stranger
    job = Job(id=new_job_id(), blob="blob", media_type=MediaType.PNG, size_bytes=1, name=RAW)
    ledger.accept(job, document_pages=1)
    ledger.cancel(job.id)
    ledger.redis.hset(f"{settings.namespace}:job:{job.id}", "error", json.dumps({"code": "internal", "message": RAW}))
    ledger.bury({"kind": "page", "job_id": job.id, "unit": "1+1", "name": RAW, "code": RAW, "reason": RAW})
    ledger.bury(
        {"kind": "message", "queue": RAW, "code": RAW, "reason": RAW, "body": base64.b64encode(RAW.encode()).decode()}
    )
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)

    # Then what is printed of them is printable
    run = CliRunner()
    commands = [["status", job.id], ["result", job.id], ["dead", "list"], ["dead", "show", "1"], ["dead", "show", "2"]]
    for command in commands:
        shown = run.invoke(app, command)
        assert "forged" in shown.output, command
        assert shown.output.replace("\n", "").isprintable(), command
        assert not any(line.startswith("forged") for line in shown.output.splitlines()), command

    # And a result's heading as well
    result = JobResult(id=job.id, name=RAW, state=JobState.SUCCEEDED, pages=())
    with Producer(settings, ledger=ledger) as producer:
        print_result(result, Format.TEXT, producer.results, seconds=1)
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_a_result_is_written_under_any_name_into_its_folder(tmp_path: Path, idle_pool: Producer) -> None:
    folder = OutputFolder(tmp_path / "out", Format.JSON, idle_pool.results)
    for name in ("", "..", RAW, "№" * NAME_CHARS, "№" * NAME_CHARS):
        job = idle_pool.submit(PNG, name="given")
        job.cancel()
        assert folder.write(job.result().model_copy(update={"name": name}))
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert not [path for path in tmp_path.rglob("*.json") if path.parent.name != "out"]
