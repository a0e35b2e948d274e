"""Which model a worker loads, on which runtime and device, why, and the predictors made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from producer.cards import cards_for
from producer.errors import Unavailable
from producer.settings import Settings
from worker import kernels, shapes
from worker.models import RUNTIMES, Model, load_model, missing
from worker.predictors import Device, Execution, Predictor, Shape, Stage, fake, onnx, paddle
from worker.tensors import Tensor
from worker.zoo import BUNDLES

#: What is tried for each device that is asked for, best first.
FALLBACKS: dict[str, tuple[Device, ...]] = {
    "auto": ("cuda", "cpu"),
    "tensorrt": ("tensorrt", "cuda", "cpu"),
    "cuda": ("cuda", "cpu"),
    "cpu": ("cpu",),
}


@dataclass(frozen=True)
class Choice:
    """The model that a worker loads, where it runs, and one sentence that says why."""

    model: Model
    execution: Execution
    reason: str

    @property
    def shapes(self) -> shapes.Device:
        """Whose list of shapes fits."""
        if self.execution.device != "cpu":
            return "cuda"
        return "cpu-paddle" if self.model.runtime == "paddle" else "cpu"


def choose(settings: Settings) -> Choice:
    """Pick the model and the device that the settings ask for, or the next best that this machine can run.

    Raises:
        Unavailable: this machine cannot run it, the model is not one for that runtime, or `strict_runtime` is set and
            the device that was asked for cannot be used.
    """
    model, why = _choose_model(settings)
    device, passed_over = _choose_device(settings, model)
    execution = Execution(
        device=device,
        half=device != "cpu" and settings.precision != "fp32",
        host_kernels=settings.preprocess == "host",
        engines=settings.data_dir / "engines",
    )
    told = "; ".join([f"{model.name} on {model.runtime}, {device}: {why}", *passed_over])
    return Choice(model, execution, f"{told}.")


def build_predictor(model: Model, stage: Stage, shapes: Iterable[Shape], execution: Execution) -> Predictor:
    """Load one stage of a model for one thread.

    Call it once for each runner thread; the weights are shared where the runtime allows it.
    """
    if model.runtime == "fake":
        return fake.FakePredictor(fake.OUTPUTS[stage], shapes)
    if model.runtime == "paddle":
        return paddle.PaddlePredictor(model.paths[stage], stage, shapes, execution)
    if execution.device == "cpu":
        return onnx.OnnxPredictor(model.paths[stage], stage, shapes, execution.threads)
    if stage is Stage.ORIENTATION:
        # Small enough either way, and in float16 some of its nodes would have to run on the CPU.
        execution = replace(execution, half=False)
    return onnx.OnnxCardPredictor(model.paths[stage], stage, shapes, execution)


def default_run(choice: Choice, stage: Stage) -> Callable[[Tensor], Tensor]:
    """One stage as the runtime runs it by default: any shape in, all that the model knows out. For comparisons only."""
    model, on_card = choice.model, choice.execution.device != "cpu"
    if model.runtime == "fake":
        return fake.PROBABILITIES[stage]
    if model.runtime == "paddle":
        return paddle.default_run(model.paths[stage], on_card=on_card)
    return onnx.default_run(model.paths[stage], on_card=on_card)


def _choose_model(settings: Settings) -> tuple[Model, str]:
    """The model, and why it."""
    if settings.predictor == "fake":
        return load_model("fake"), "it reads nothing, and was asked for by name"
    if settings.model:
        runtimes = RUNTIMES if settings.predictor == "auto" else (settings.predictor,)
        model = load_model(settings.model, runtimes, download=settings.model_download)
        return model, "the model was asked for by name"
    names = [name for name, bundle in BUNDLES.items() if settings.predictor in ("auto", bundle.runtime)]
    if settings.predictor != "auto":
        return load_model(names[0]), "the predictor was asked for by name"
    passed_over = []
    for name in names:
        if lacking := missing(name):
            passed_over.append(f"{name} was passed over, because {lacking}")
            continue
        return load_model(name), "; ".join(passed_over) or "the most accurate and fastest that ocrpool knows"
    raise Unavailable(f"This machine can run no model: {'; '.join(passed_over)}. Install ocrpool[cpu].")


def _choose_device(settings: Settings, model: Model) -> tuple[Device, list[str]]:
    """The device, and what was passed over for it.

    Raises:
        Unavailable: something was, and `strict_runtime` is set.
    """
    if model.runtime == "fake":
        return "cpu", []
    passed_over: list[str] = []
    for device in FALLBACKS[settings.device]:
        trouble = ""
        if settings.device == "auto" and device != "cpu":
            found = cards_for(settings)
            if not found.cards and not found.amiss:
                continue  # nothing is amiss on a machine without a card
            trouble = found.reason
        trouble = trouble or "; ".join(troubles(device, model))
        if not trouble:
            return device, passed_over
        if settings.strict_runtime:
            raise Unavailable(f"The device {device} cannot be used, and OCRPOOL_STRICT_RUNTIME is set: {trouble}.")
        passed_over.append(f"{device} was passed over, because {trouble}")
    raise AssertionError("the CPU has no troubles")


def troubles(device: Device, model: Model) -> Iterator[str]:
    """What keeps a device from being used, one phrase each."""
    if device == "cpu":
        return
    if model.runtime == "paddle":
        yield from paddle.troubles(device, model.paths[Stage.RECOGNISER])
        return
    yield from filter(None, (kernels.missing(),))
    if model.runtime == "onnxruntime":
        yield from onnx.troubles(device)
