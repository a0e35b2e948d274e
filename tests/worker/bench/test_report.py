"""What is made of a document: goals, tables and plots, from figures that two busy cores once gave."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from worker.bench.document import Ablation, Ceiling, Goal, NotRun, Report, Rung
from worker.bench.goals import goals
from worker.bench.plots import draw
from worker.bench.tables import tables

REPORT = Path(__file__).with_name("report.json")


@pytest.fixture
def report() -> Report:
    report = Report.model_validate_json(REPORT.read_text())
    return report.model_copy(update={"goals": goals(report)})


def shown(report: Report) -> str:
    file = io.StringIO()
    console = Console(width=160, file=file)
    for table in tables(report):
        console.print(table)
    return file.getvalue()


def by_name(report: Report) -> dict[str, Goal]:
    return {goal.name: goal for goal in goals(report)}


def on_a_card(report: Report) -> Report:
    assert isinstance(report.ablation, Ablation)
    rungs = tuple(
        rung.model_copy(update={"model": "PP-OCRv6_small 0 onnxruntime 1 cuda"}) if isinstance(rung, Rung) else rung
        for rung in report.ablation.rungs
    )
    machine = report.machine.model_copy(update={"cards": ("NVIDIA H200",)})
    ablation = report.ablation.model_copy(update={"rungs": rungs})
    return report.model_copy(update={"machine": machine, "ablation": ablation})


def test_a_document_survives_json(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert report.version == 1


def test_every_section_has_its_table(report: Report) -> None:
    text = shown(report)
    for row in (
        r"one page at a time +│ +18% cpu │ +0\.09 │ +1\.00 │ +33\.43 │ +0 │",
        r"\+ asynchronous intake +│ +17% cpu │ +0\.27 │ +3\.11 │ +11\.33 │ +1\+ │",
        r"\+ GPU preprocessing +│ +no card",
        r"RapidOCR, orientation off +│ +0\.07 │ +2\.98 │ +0\.9838 │ +0\.8066",
        r"PaddleOCR's pipeline +│ +not run │ +the package paddleocr is not installed",
        r"80% +│ +0\.16 │ +0\.16 │ +15 │ +5709 │ +8791 │ +8791",
        r"a page alone, ms +│ +11 │ +1791 │ +3131",
        r"pool / predictors alone +│ +0\.96",
        r"PaddleX's policy on the same lines +│ +37\.1%",
        r"of 113 lines identical, alone and in batches +│ +100\.00%",
        r"cost a page, p99, ms +│ +19\.5",
        r"after each tenth +│ +160 309 315",
        r"queue's own cost a page, median, ms +│ +<= 5\.0 │ +7\.0 │ not met",
    ):
        assert re.search(row, text), f"{row} is not in\n{text}"


def test_a_section_that_could_not_run_says_why_and_its_goals_are_not_measured(report: Report) -> None:
    report = report.model_copy(update={"ceiling": NotRun(not_run="out of memory")})
    report = report.model_copy(update={"goals": goals(report)})
    text = shown(report)
    assert "Ceiling: not run: out of memory" in text
    assert by_name(report)["pool / predictors alone"].met is None
    assert re.search(r"recogniser padding +│ +<= 10\.0% │ +│ not measured", text)


def test_what_was_not_asked_for_is_not_mentioned(report: Report) -> None:
    nothing = NotRun(not_run="not asked for")
    report = report.model_copy(update={"peers": nothing, "ablation": nothing, "queue": nothing})
    report = report.model_copy(update={"goals": goals(report)})
    text = shown(report)
    assert "not asked for" not in text
    assert "not measured" not in text
    assert "pool / predictors alone" in text


def test_goals_are_met_at_the_bound(report: Report) -> None:
    assert isinstance(report.ceiling, Ceiling)
    for ratio, met in ((0.8, True), (0.79, False)):
        changed = report.model_copy(update={"ceiling": report.ceiling.model_copy(update={"pool_by_ceiling": ratio})})
        assert by_name(changed)["pool / predictors alone"].met is met


def test_a_card_has_goals_of_its_own(report: Report) -> None:
    on_cpu, on_card = by_name(report), by_name(on_a_card(report))
    assert "pool, device busy" not in on_cpu
    assert on_card["pool, documents/s"].wanted == ">= 268"
    assert on_card["pool / one page at a time, fixed shapes"].measured == "1.8"
    assert on_card["mean batch under load, lines"].met is False
    assert "pool / Celery task an image" not in on_card


def test_plots_are_files(report: Report, tmp_path: Path) -> None:
    files = list(draw(report, tmp_path))
    assert [file.name for file in files] == ["load.png", "stages.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
