"""`python -m worker.bench.child KIND`: one reader in a process of its own, asked by JSON lines.

In:  {"id": 7, "method": "read", "argument": "/path/of/a/page"}
Out: {"id": 7, "value": ...} or {"id": 7, "error": "one sentence"}; the first line is {"ready": ..., "error": ...}

A process for each: what one leaves in memory, holds on a card or does to the interpreter is not another's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TextIO

from producer.logs import configure_logs
from producer.settings import Settings
from worker.bench.readers import Reader

#: What makes each kind of reader. A child imports its own alone: a client of the pool needs no OpenCV.
READERS = {
    "one-at-a-time": ("baseline", "OneAtATime"),
    "fixed-shapes": ("baseline", "FixedShapes"),
    "batched": ("baseline", "Batched"),
    "recorder": ("ceiling", "Recorder"),
    "client": ("client", "Client"),
    "rapidocr": ("peers", "RapidOcr"),
    "rapidocr-upright": ("peers", "RapidOcrUpright"),
    "rapidocr-threads": ("peers", "RapidOcrThreads"),
    "rapidocr-paddle": ("peers", "RapidOcrPaddle"),
    "paddleocr": ("peers", "PaddleOcr"),
    "naive-celery": ("naive", "NaiveCelery"),
}


def make_reader(kind: str) -> Reader:
    """Load and warm a reader. Raises `Unavailable` where it cannot run."""
    module, name = READERS[kind]
    reader: Reader = getattr(import_module(f"worker.bench.{module}"), name)()
    return reader


def serve(reader: Reader, questions: TextIO, answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer until the questions end, `reader.width` of them at a time."""
    methods = reader.methods()

    def respond(question: Mapping[str, Any]) -> None:
        try:
            answer({"id": question["id"], "value": methods[question["method"]](question["argument"])})
        except Exception as error:
            answer({"id": question["id"], "error": f"{type(error).__name__}: {error}"})

    with ThreadPoolExecutor(reader.width) as pool:
        for line in questions:
            pool.submit(respond, json.loads(line))


def _private_output() -> TextIO:
    """Standard output for answers alone: what libraries print goes to standard error, which the parent keeps."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def main() -> None:
    answers, lock = _private_output(), threading.Lock()

    def answer(message: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(message) + "\n")

    configure_logs(Settings().model_copy(update={"log_level": "ERROR"}))
    try:
        reader = make_reader(sys.argv[1])
    except Exception as error:
        answer({"ready": False, "error": f"{error}" or type(error).__name__})
        return
    answer({"ready": True, "model": reader.model, "width": reader.width})
    try:
        serve(reader, sys.stdin, answer)
    finally:
        reader.close()


if __name__ == "__main__":
    main()
