"""`python -P faulty_worker.py FAULT FILE`: a worker with the fake predictor and a fault that a black page brings about.

- `hang`: the batch with a part of that page does not return.
- `hang-alone`: nor does any other thread run from then on.
- `device`: the device fails under it, and runs nothing more in this process.
- `model`: it fails, and so does everything that follows in this process.
- `crash`: the process is killed.
- `memory`: that batch finds no memory, and no other does without that page.
- `deaf`: this process receives no message, from the beginning.

The file, where one is named, is made by the first process that comes to the fault; no other has it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from kombu.transport.redis import Channel

from worker.__main__ import main
from worker.device import DeviceFailed
from worker.predictors import Answers, fake
from worker.tensors import Batch

#: Most of the mean of an item in a predictor's tensor; paper is far above.
BLACK = -0.5


def hang() -> None:
    threading.Event().wait()


def hang_alone() -> None:
    ctypes.PyDLL(None).pause()  # keeps the interpreter's lock


def fail_device() -> None:
    raise DeviceFailed("CUDA failure 700: an illegal memory access was encountered")


def fail() -> None:
    raise ValueError("no kernel")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def find_no_memory() -> None:
    raise MemoryError("out of memory")


FAULTS: dict[str, Callable[[], None]] = {
    "crash": crash,
    "hang": hang,
    "hang-alone": hang_alone,
    "device": fail_device,
    "memory": find_no_memory,
    "model": fail,
}


def strikes_here(file: str) -> bool:
    if not file:
        return True
    try:
        Path(file).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def spoil_predictors(fault: Callable[[], None], file: str) -> None:
    run, struck = fake.FakePredictor.run, threading.Event()

    def spoilt(self: fake.FakePredictor, batch: Batch) -> Answers:
        if not struck.is_set() and (batch.mean(axis=(1, 2, 3)) < BLACK).any() and strikes_here(file):
            struck.set()
        if struck.is_set():
            if fault is find_no_memory:
                struck.clear()
            fault()
        return run(self, batch)

    fake.FakePredictor.run = spoilt  # type: ignore[method-assign]


if __name__ == "__main__":
    name, file = sys.argv[1:]
    del sys.argv[1:]
    if name != "deaf":
        spoil_predictors(FAULTS[name], file)
    elif strikes_here(file):
        Channel._brpop_start = lambda self, timeout=None: None  # type: ignore[method-assign]
    main()
