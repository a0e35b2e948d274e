"""The models that a worker can load, which runtime runs them, and the predictors made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from producer.errors import Unavailable
from producer.settings import Settings
from worker import official, zoo
from worker.predictors import Predictor, Shape, fake, onnx, paddle
from worker.predictors.engine_files import digest
from worker.zoo import Runtime, Stage

__all__ = [
    "Choice",
    "Model",
    "Runtime",
    "Stage",
    "available_models",
    "build_predictor",
    "choose_predictor",
    "load_model",
]


@dataclass(frozen=True)
class Model:
    """The files of one engine's three stages."""

    name: str
    runtime: Runtime
    #: Each stage's file, or its folder for Paddle; empty for the fake. `ORIENTATION` may be missing.
    paths: Mapping[Stage, Path]
    #: What the recogniser's classes stand for. The first is the blank of CTC and stands for nothing.
    characters: tuple[str, ...]
    #: The name, a short hash of the files, and the runtime's version.
    fingerprint: str

    @property
    def tells_orientation(self) -> bool:
        """Whether it has a classifier that tells which lines stand upside down."""
        return self.runtime == "fake" or Stage.ORIENTATION in self.paths


@dataclass(frozen=True)
class Choice:
    """The model that a worker loads, and one sentence that says why."""

    model: Model
    reason: str


_MODULES: Mapping[str, ModuleType] = {"onnxruntime": onnx, "paddle": paddle}
#: In the order in which a model that both can run is given to them.
_RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "paddle")


def available_models() -> dict[str, Runtime]:
    """The models on this machine that it can run, the bundled ones first, and the runtime of each."""
    return {
        name: next(runtime for runtime in _RUNTIMES if runtime in runtimes)
        for name, having in zoo.on_this_machine().items()
        if (runtimes := {runtime for runtime in having if _MODULES[runtime].installed()})
    }


def load_model(name: str, runtimes: Sequence[Runtime] = _RUNTIMES, *, download: bool = False) -> Model:
    """Find a model's files by its name or the path of its folder, for the first of `runtimes` that has them.

    `fake` needs no files. With `download`, PaddleX may fetch a model that is not on this machine.

    Raises:
        Unavailable: there is no such model, or this machine lacks its files or its runtime.
    """
    if name == "fake":
        return Model("fake", "fake", {}, fake.CHARACTERS, "fake")
    usable = [runtime for runtime in runtimes if _MODULES[runtime].installed()]
    found = [files for runtime in usable if (files := zoo.find(name, runtime))]
    if not found and usable and download and official.parts(name) is not None:
        found = [_download(name, usable)]
    if not found:
        raise Unavailable(f"The model {name} cannot be loaded: {_why(name, runtimes)}; {_offered()}.")
    files = found[0]
    listed = files.characters
    characters = onnx.read_characters(listed) if listed.suffix == ".onnx" else zoo.read_characters(listed)
    shown = Path(name).expanduser().resolve().name if zoo.is_folder(name) else name
    version: str = _MODULES[files.runtime].version()
    return Model(
        name=shown,
        runtime=files.runtime,
        paths=files.paths,
        # PP-OCR's recognisers put the blank of CTC before their list and the space behind it.
        characters=("", *characters, " "),
        fingerprint=f"{shown} {digest(files.paths.values())} {version}",
    )


def _download(name: str, runtimes: Sequence[Runtime]) -> zoo.ModelFiles:
    """Not every model is offered in the format of every runtime: the first that is."""
    refusals = []
    for runtime in runtimes:
        try:
            official.download(name, runtime)
        except Unavailable as error:
            refusals.append(str(error))
            continue
        if files := zoo.find(name, runtime):
            return files
        refusals.append(f"PaddleX's download of it has no files for {runtime}")
    raise Unavailable(f"The model {name} cannot be loaded: {'; '.join(dict.fromkeys(refusals))}; {_offered()}.")


def _why(name: str, runtimes: Sequence[Runtime]) -> str:
    """What keeps a model from being loaded."""
    installed = [runtime for runtime in runtimes if _MODULES[runtime].installed()]
    bundle = zoo.BUNDLES.get(name)
    if not installed:
        return f"the package {' or '.join(runtimes)} is not installed"
    if zoo.is_folder(name):
        return (
            f"it has no folders for a detector (`det`) and a recogniser (`rec`) with files for {' or '.join(installed)}"
        )
    if bundle is not None and bundle.runtime in runtimes:
        return bundle.missing() or f"the package {bundle.runtime} is not installed"
    if official.parts(name) is None:
        return "it is neither the name of a model nor the path of a folder"
    return f"it is not on this machine for {' or '.join(installed)}, and downloads are off (OCRPOOL_MODEL_DOWNLOAD)"


def _offered() -> str:
    there = ", ".join(available_models()) or "none"
    return f"this machine can run: {there}; PaddleX's download offers: {', '.join(official.OFFICIAL)}"


def choose_predictor(settings: Settings) -> Choice:
    """Pick the model that `settings.predictor` and `settings.model` ask for.

    Raises:
        Unavailable: this machine cannot run it, or the model is not one for that runtime.
    """
    if settings.predictor == "fake":
        return Choice(load_model("fake"), "The fake predictor reads nothing: it was asked for by name.")
    if settings.model:
        runtimes: tuple[Runtime, ...] = _RUNTIMES if settings.predictor == "auto" else (settings.predictor,)
        model = load_model(settings.model, runtimes, download=settings.model_download)
        return Choice(model, f"{model.name} on {model.runtime}: the model was asked for by name.")
    names = [name for name, source in zoo.BUNDLES.items() if settings.predictor in ("auto", source.runtime)]
    if settings.predictor != "auto":
        return Choice(load_model(names[0]), f"{names[0]} on {settings.predictor}: the predictor was asked for by name.")
    passed_over = []
    for name in names:
        bundle = zoo.BUNDLES[name]
        missing = bundle.missing()
        if not missing and not _MODULES[bundle.runtime].installed():
            missing = f"the package {bundle.runtime} is not installed"
        if missing:
            passed_over.append(f"{name} was passed over, because {missing}")
            continue
        why = "; ".join(passed_over) or "the most accurate and fastest on a CPU that ocrpool knows"
        return Choice(load_model(name), f"{name} on {bundle.runtime}: {why}.")
    raise Unavailable(f"This machine can run no model: {'; '.join(passed_over)}. Install ocrpool[cpu].")


def build_predictor(model: Model, stage: Stage, shapes: Iterable[Shape], threads: int) -> Predictor:
    """Load one stage of a model for one thread, with `threads` CPU threads inside each call.

    Call it once for each runner thread; the weights are shared where the runtime allows it.
    """
    if model.runtime == "fake":
        return fake.FakePredictor(fake.OUTPUTS[stage.value], shapes)
    if model.runtime == "onnxruntime":
        return onnx.OnnxPredictor(model.paths[stage], shapes, threads)
    return paddle.PaddlePredictor(model.paths[stage], shapes, paddle.PaddleOptions(threads=threads))
