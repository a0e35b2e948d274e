"""What each shape takes on a card: seconds to record, milliseconds to replay, memory that stays.

    python -m tests.benchmarks.replays [--shapes 64x48x320,8x1120x512] [--precision fp16]

Without `--shapes`, every shape of the list for cards. Needs a card; see `worker.predictors.onnx.OnnxCardPredictor`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from producer.settings import Settings
from worker import kernels
from worker.detection import Detector
from worker.predictors import Shape, Stage
from worker.recognition import LINE_HEIGHT, Recogniser
from worker.runtimes import Choice, build_predictor, choose
from worker.shapes import resolve

REPLAYS = 30


def measure(choice: Choice, stage: Stage, shapes: Iterable[Shape]) -> None:
    """One line a shape, the largest first. Each has a predictor of its own, so that its memory is seen alone."""
    for shape in sorted(shapes, key=lambda shape: -shape.pixels):
        before, _ = kernels.memory()
        predictor = build_predictor(choice.model, stage, [shape], choice.execution)
        sides = (shape.batch, 3, shape.height, shape.width)
        noise = np.random.default_rng(0).uniform(-1, 1, sides).astype(np.float32)
        started = time.perf_counter()
        predictor.run(noise)
        record_s = time.perf_counter() - started
        # Where the kernels make batches: the noise lies there already, and a run begins with the replay.
        beside = predictor.kernels.input[: noise.size].reshape(*sides)  # type: ignore[attr-defined]
        taken_ms = []
        for _ in range(REPLAYS):
            started = time.perf_counter()
            predictor.run(beside)
            taken_ms.append(1000 * (time.perf_counter() - started))
        after, _ = kernels.memory()
        per_item_ms = statistics.median(taken_ms) / shape.batch
        print(
            f"{stage:11} {shape!s:16} record {record_s:5.1f} s   run {statistics.median(taken_ms):7.2f} ms "
            f"({per_item_ms:.3f} an item)   memory {(before - after) / 1e6:6.0f} MB",
            flush=True,
        )
        predictor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", help="batch x height x width, separated by commas")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "fp32"))
    options = parser.parse_args()
    settings = Settings(device="cuda", strict_runtime=True)
    choice = choose(settings)
    choice = replace(choice, execution=replace(choice.execution, half=options.precision == "fp16"))
    fitted = resolve(settings, choice.shapes)
    shapes = Detector(fitted).shapes | Recogniser(choice.model, fitted).shapes
    if options.shapes:
        shapes = frozenset(Shape(*map(int, one.split("x"))) for one in options.shapes.split(","))
    print(choice.reason)
    measure(choice, Stage.DETECTOR, {shape for shape in shapes if shape.height != LINE_HEIGHT})
    measure(choice, Stage.RECOGNISER, {shape for shape in shapes if shape.height == LINE_HEIGHT})


if __name__ == "__main__":
    main()
