"""Whole runs in small: every section but the peers, with a predictor that answers at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worker.bench import __main__ as bench
from worker.bench.document import Ablation, Ceiling, Latency, Memory, NotRun, QueueCost, Report, Rung, Texts
from worker.bench.drawings import draw_receipts
from worker.bench.plan import QUICK

TINY = replace(
    QUICK,
    least_s=0.1,
    most_s=1,
    search_s=0.1,
    idle_documents=2,
    loads=((0.5, 4), (0.8, 4)),
    queue_jobs=5,
    queue_pages=70,
    soak_pages=80,
)


def test_every_section_measures_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_receipts(tmp_path / "data", 2)
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setenv("OCRPOOL_PREDICTOR", "fake")
    monkeypatch.setenv("OCRPOOL_RASTERISE_PROCESSES", "1")
    sections = "ablation,latency,ceiling,accuracy,queue,memory"

    folders = ["--data", f"{tmp_path / 'data'}", "--output", f"{tmp_path}"]
    bench.main(["--quick", "--only", sections, "--bound-s", "0.05", "--users", "1", *folders])

    report = Report.model_validate_json((tmp_path / "bench.json").read_text())
    assert isinstance(report.ablation, Ablation)
    *rungs, card = report.ablation.rungs
    assert isinstance(card, NotRun)
    assert all(isinstance(rung, Rung) and rung.documents_per_s > 0 for rung in rungs)
    assert len({rung.name for rung in rungs}) == 4
    assert isinstance(report.latency, Latency)
    assert [point.load for point in report.latency.points] == [0.5, 0.8]
    assert all(point.latency.documents >= 4 for point in report.latency.points)
    assert report.latency.idle_stage_ms["detect"] > 0
    assert report.latency.mean_batch["detector"] >= 1
    assert isinstance(report.ceiling, Ceiling)
    assert report.ceiling.lines.lines == 2, "the fake detector finds one line a page"
    assert report.ceiling.pool_by_ceiling > 0
    assert isinstance(report.accuracy, Texts)
    assert report.accuracy.identical == 1
    assert isinstance(report.queue, QueueCost)
    assert report.queue.pages == 70
    assert isinstance(report.memory, Memory)
    assert report.memory.pages >= 80
    assert report.peers == NotRun(not_run="not asked for")
    assert report.settings == {"OCRPOOL_PREDICTOR": "fake", "OCRPOOL_RASTERISE_PROCESSES": "1"}
    out = capsys.readouterr().out
    assert "The stages, added one by one" in out
    for name in ("load.png", "stages.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no image"):
        bench.main(["--data", f"{tmp_path}", "--output", f"{tmp_path / 'out'}"])


def test_the_command_line_reaches_it() -> None:
    command = [sys.executable, "-m", "producer.cli", "bench", "--only", "nonsense"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert "sections are ablation, peers, latency, ceiling, accuracy, queue, memory" in ran.stderr
