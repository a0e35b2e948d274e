"""Predictors: one model, one batch, one of a few fixed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from worker.tensors import Batch, Kernels

#: What a model answers, in the host's memory; its first axis is the batch.
Answers = NDArray[Any]


class Stage(StrEnum):
    """What a model does, and with it what it answers.

    - detector: `uint8[N, H, W]`, the probability of text at each pixel, times 255 and rounded
    - recogniser: `float32[N, T, 2]`, the best class of each step along the line, and its probability
    - orientation: `float32[N, 2]`, the probability of each of upright and upside down
    """

    DETECTOR = "detector"
    RECOGNISER = "recogniser"
    ORIENTATION = "orientation"


Device = Literal["cpu", "cuda", "tensorrt"]


@dataclass(frozen=True)
class Execution:
    """Where and how a model runs."""

    device: Device = "cpu"
    #: Compute in float16 where the card does.
    half: bool = False
    #: CPU threads inside one call.
    threads: int = 1
    #: Make batches in the host's memory although the model runs on a card.
    host_kernels: bool = False
    #: Folder of the engines that TensorRT has built.
    engines: Path = Path()
    #: Let the runtime time each operator, and print the times when the predictor is closed. Paddle alone does; it also
    #: leaves a `profile.log` in the current folder.
    profile: bool = False

    def __str__(self) -> str:
        return f"{self.device}{' fp16' if self.half else ''}"


@dataclass(frozen=True, order=True)
class Shape:
    """The shape of one input tensor `float32[batch, 3, height, width]`."""

    batch: int
    height: int
    width: int

    @classmethod
    def of(cls, batch: Batch) -> Shape:
        size, _, height, width = batch.shape
        return cls(size, height, width)

    @property
    def pixels(self) -> int:
        return self.batch * self.height * self.width

    def __str__(self) -> str:
        return f"{self.batch}x3x{self.height}x{self.width}"


class ShapeRefused(ValueError):
    """A tensor's shape is not on the predictor's list."""

    def __init__(self, got: tuple[int, ...], shapes: frozenset[Shape]) -> None:
        known = ", ".join(str(shape) for shape in sorted(shapes))
        super().__init__(f"no predictor for shape {'x'.join(map(str, got))}; the configured shapes are {known}")


class Predictor(Protocol):
    """Runs one model on one batch. Not thread-safe: each instance belongs to one thread, which alone calls `run`.

    A predictor accepts exactly the shapes it was built with and raises `ShapeRefused` for any other, because a new
    shape makes a runtime plan its kernels anew, which takes longer than the batch.
    """

    #: Runtime, version and device, such as `onnxruntime 1.31.1 cpu`.
    runtime: str
    shapes: frozenset[Shape]
    #: What makes this predictor's batches.
    kernels: Kernels

    def run(self, batch: Batch) -> Answers:
        """Turn `float32[N, 3, H, W]`, of the kernels or in the host's memory, into the answers of the model's `Stage`.

        Raises:
            ShapeRefused: the shape is not in `shapes`.
            MemoryError: the device had no room for the batch.
        """
        ...

    def warm_up(self) -> None:
        """Run once what a user would otherwise wait for: every shape, where the runtime plans each anew."""
        ...

    def close(self) -> None:
        """Free the model. `run` must not be called afterwards."""
        ...


def check_shape(batch: Batch, shapes: frozenset[Shape]) -> Shape:
    """The batch's shape.

    Raises:
        ShapeRefused: it is none of `shapes`.
    """
    shape = Shape.of(batch)
    if shape not in shapes:
        raise ShapeRefused(batch.shape, shapes)
    return shape
