"""What stands behind a model's last layer, so that little leaves the device: see `Stage` for what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from worker.predictors import Answers, Stage

Probabilities = NDArray[np.float32]


def quantised(maps: Probabilities) -> Answers:
    """`float32[N, 1, H, W]` probabilities to `uint8[N, H, W]`."""
    return (maps[:, 0] * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def best_classes(scores: Probabilities) -> Answers:
    """`float32[N, T, C]` probabilities to `float32[N, T, 2]`: the best class and its probability."""
    best = scores.argmax(axis=2)
    return np.stack((best.astype(np.float32), np.take_along_axis(scores, best[..., None], axis=2)[..., 0]), axis=2)


#: For each stage, from the model's probabilities to its answers; `worker.predictors.graph` builds the same into graphs.
ENDINGS: Mapping[Stage, Callable[[Probabilities], Answers]] = {
    Stage.DETECTOR: quantised,
    Stage.RECOGNISER: best_classes,
    Stage.ORIENTATION: lambda scores: scores,
}
