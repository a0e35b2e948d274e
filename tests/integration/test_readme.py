"""The README's examples run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import Producer
from producer.embedded import Embedded
from producer.settings import as_environment
from tests.contracts.official import COMMAND_LINE
from tests.documents import SAMPLES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PYTHON = [code for code in BLOCKS if "from paddleocr" not in code]
(PADDLEOCR,) = [code for code in BLOCKS if "from paddleocr" in code]
CURL = [line for line in re.findall(r"^\$ (.*)$", README, re.MULTILINE) if line.startswith("curl")]
COMMAND = re.compile(r"((JOB|KEY)=\$\()?ocrpool (?!up)")
JOBS = [line for line in re.findall(r"^\$ (.*)$", README, re.MULTILINE) if COMMAND.match(line)]


@pytest.fixture
def env(pool: Producer) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **as_environment(pool.settings), "PATH": path}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user would stand: the examples' documents are here."""
    for name in ("invoice.png", "report.pdf"):
        shutil.copy(SAMPLES / name, tmp_path)
    shutil.copy(SAMPLES / "report.pdf", tmp_path / "report-2.pdf")
    (tmp_path / "scans").mkdir()
    shutil.copy(SAMPLES / "report.pdf", tmp_path / "scans")
    return tmp_path


@pytest.fixture
def gateway_url(pool: Producer) -> Iterator[str]:
    with Embedded(pool.settings.model_copy(update={"gateway_port": 0})) as parts:
        yield parts.start_gateway()


def run(command: list[str], env: dict[str, str], folder: Path) -> str:
    ran = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("code", PYTHON, ids=["short", "long"])
def test_python(code: str, env: dict[str, str], folder: Path) -> None:
    printed = run([sys.executable, "-W", "error", "-c", code], env, folder)
    assert "Harrow & Finch" in printed or "5 of 5 pages" in printed


@pytest.mark.skipif(
    not COMMAND_LINE.exists(), reason="PaddleOCR's client has an environment of its own: make .venv-paddleocr/installed"
)
def test_paddleocr(env: dict[str, str], folder: Path, gateway_url: str) -> None:
    code = PADDLEOCR.replace("http://127.0.0.1:8080", gateway_url)
    printed = run([str(COMMAND_LINE.with_name("python")), "-c", code], env, folder)
    assert "Harrow & Finch" in printed


def test_client(env: dict[str, str], folder: Path, gateway_url: str) -> None:
    [code] = re.findall(r"```py\n(from producer import Client.*?)```", README, re.DOTALL)
    code = code.replace('"https://ocr.example.com", api_key', f'"{gateway_url}"')
    printed = run([sys.executable, "-W", "error", "-c", f"paths = ['report.pdf']\n{code}"], env, folder)
    assert "Harrow & Finch" in printed
    assert "report.pdf " in printed


def test_command_line(env: dict[str, str], folder: Path) -> None:
    assert len(JOBS) == 12
    printed = run(["bash", "-ec", "\n".join(JOBS)], env, folder)
    assert "Skerry Sound Pilot" in printed
    assert (folder / "out" / "report.pdf.json").exists()
    assert (folder / "out" / "report.pdf.searchable.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(env: dict[str, str], folder: Path, gateway_url: str, pool: Producer) -> None:
    assert len(CURL) == 19
    job = pool.submit(SAMPLES / "report.pdf")
    job.wait(60)
    script = "\n".join(CURL).replace("http://127.0.0.1:8080", gateway_url)
    printed = run(["bash", "-ec", script], {**env, "JOB": job.id}, folder)
    assert (folder / "searchable.pdf").read_bytes().startswith(b"%PDF-")
    assert (folder / "page-1.png").read_bytes().startswith(b"\x89PNG")
    assert "Harrow & Finch" in printed
    assert "Skerry Sound Pilot" in printed
