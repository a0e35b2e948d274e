"""Predictors: one model, one batch, one of a few fixed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


@dataclass(frozen=True, order=True)
class Shape:
    """The shape of one input tensor `float32[batch, 3, height, width]`."""

    batch: int
    height: int
    width: int

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

    def run(self, batch: Tensor) -> Tensor:
        """Turn `float32[N, 3, H, W]` into the model's output, whose first axis is N.

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
