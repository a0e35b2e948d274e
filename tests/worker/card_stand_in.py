"""A card for tests: CuPy's arrays in the host's memory, the kernels compiled for the CPU, ONNX Runtime beside them.

It keeps to what CuPy refuses (other shapes, other types, arrays of numpy where its own belong) and computes the same.
What it cannot show is time, memory, and that work on a stream is not done when a call returns.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from tests.worker.compiled_kernels import compiled
from worker import kernels
from worker.predictors import onnx


class Array:
    """The part of `cupy.ndarray` that the worker uses."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.values.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        if name not in ("shape", "dtype", "nbytes", "size"):
            raise AttributeError(name)
        return getattr(self.values, name)

    def __getitem__(self, key: slice) -> Array:
        return Array(self.values[key])

    def __setitem__(self, key: slice, other: Array) -> None:
        self.values[key] = other.values

    def reshape(self, *shape: int) -> Array:
        return Array(self.values.reshape(*shape))

    def set(self, values: NDArray[Any]) -> None:
        self._check(values)
        self.values[...] = values

    def get(self, *, out: NDArray[Any], stream: object, blocking: bool) -> None:
        self._check(out)
        out[...] = self.values

    def _check(self, other: NDArray[Any]) -> None:
        if not isinstance(other, np.ndarray) or (other.shape, other.dtype) != (self.values.shape, self.values.dtype):
            raise TypeError("arrays of another shape or type")


class Stream:
    ptr = 1

    def __init__(self, *, non_blocking: bool) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Module:
    """`cupy.RawModule`: the pixel kernels compiled, the reduction over classes in numpy."""

    def __init__(self, folder: Path) -> None:
        self._library = compiled(folder)

    def get_function(self, name: str) -> Any:
        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], stream: Stream) -> None:
            if name.startswith("best_classes"):
                best_classes(*arguments)
                return
            table, count, tensor, height, width = arguments
            at = ctypes.c_void_p(table.data.ptr), int(count), ctypes.c_void_p(tensor.data.ptr)
            getattr(self._library, f"{name}_all")(*at, tensor.shape[0], int(height), int(width))

        return launch


def best_classes(logits: Array, answers: Array, classes: int) -> None:
    scores = np.exp(logits.values - logits.values.max(axis=2, keepdims=True))
    answers.values[..., 0] = scores.argmax(axis=2)
    answers.values[..., 1] = 1 / scores.sum(axis=2)


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process have a card for the length of a test."""

    def empty(shape: Any, dtype: DTypeLike) -> Array:
        return Array(np.empty(shape, dtype))

    cupy, cupyx, profiler = ModuleType("cupy"), ModuleType("cupyx"), ModuleType("cupyx.profiler")
    runtime = SimpleNamespace(memGetInfo=lambda: (70_000_000_000, 80_000_000_000))
    vars(cupy).update(
        empty=empty, RawModule=lambda **_: Module(folder), cuda=SimpleNamespace(Stream=Stream, runtime=runtime)
    )
    vars(profiler).update(time_range=lambda name: nullcontext())
    vars(cupyx).update(empty_pinned=np.empty, profiler=profiler)
    for module in (cupy, cupyx, profiler):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for cached in (kernels._module, kernels._function, kernels._loading):
        cached.cache_clear()
    monkeypatch.setattr(kernels, "missing", lambda: "")
    monkeypatch.setattr(onnx, "troubles", lambda device: iter(()))
    monkeypatch.setattr(onnx, "CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(onnx, "MEMORY", "cpu")
    monkeypatch.setattr(onnx, "cuda_options", lambda stream: {})
