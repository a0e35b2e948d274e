"""Readers in processes of their own, and the meter beside them."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from producer.errors import Unavailable
from producer.processes import free_port
from producer.settings import Settings
from worker.bench.child import serve
from worker.bench.meter import Meter, on_card
from worker.bench.readers import Reader
from worker.bench.services import reading


class Echo(Reader):
    width = 1

    def read(self, path: str) -> str:
        if path == "torn":
            raise ValueError("torn in two")
        return path.upper()


def test_every_question_is_answered_with_its_number() -> None:
    questions = [{"id": n, "method": "read", "argument": path} for n, path in enumerate(("a", "torn", "b"))]
    answers: list[Mapping[str, Any]] = []
    serve(Echo(), io.StringIO("\n".join(map(json.dumps, questions))), answers.append)
    assert answers == [
        {"id": 0, "value": "A"},
        {"id": 1, "error": "ValueError: torn in two"},
        {"id": 2, "value": "B"},
    ]


def test_a_reader_that_cannot_run_says_why(tmp_path: Path) -> None:
    nowhere = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", data_dir=tmp_path)
    with pytest.raises(Unavailable, match="Connection refused"), reading("a client", "client", nowhere):
        pytest.fail("there is no pool")


def test_busy_is_the_cpu_time_of_all_processes_by_that_of_all_cores() -> None:
    times = iter([0.0, 0.5])
    started = time.process_time()
    with Meter([os.getpid()], on_card=False, own_card_bytes=0, clock=lambda: next(times)) as meter:
        while time.process_time() - started < 0.2:
            pass
    assert meter.usage.device == "cpu"
    assert meter.usage.busy * 0.5 * len(os.sched_getaffinity(0)) == pytest.approx(0.2, abs=0.06)
    assert meter.usage.peak_memory_bytes > 10_000_000


@pytest.mark.parametrize(
    ("model", "card"),
    [
        ("PP-OCRv6_small 0123456789ab onnxruntime 1.31.1 cpu", False),
        ("PP-OCRv6_small 0123456789ab onnxruntime 1.31.1 cuda fp16", True),
        ("PP-OCRv5_server 0123456789ab paddle 3.2.2 gpu", True),
        ("fake", False),
    ],
)
def test_the_runtimes_name_tells_the_device(model: str, card: bool) -> None:
    assert on_card(model) is card
