"""The models that a worker can load, and which runtime runs each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from producer.errors import Unavailable
from worker import official, zoo
from worker.predictors import Stage, fake, graph, onnx, paddle
from worker.predictors.engine_files import digest
from worker.zoo import Runtime


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


_MODULES: Mapping[str, ModuleType] = {"onnxruntime": onnx, "paddle": paddle}
#: In the order in which a model that both can run is given to them.
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "paddle")


def missing(name: str) -> str:
    """What keeps this machine from running a bundled model, or nothing."""
    bundle = zoo.BUNDLES[name]
    installed = _MODULES[bundle.runtime].installed()
    return bundle.missing() or ("" if installed else f"the package {bundle.runtime} is not installed")


def available_models() -> dict[str, Runtime]:
    """The models on this machine that it can run, the bundled ones first, and the runtime of each."""
    return {
        name: next(runtime for runtime in RUNTIMES if runtime in runtimes)
        for name, having in zoo.on_this_machine().items()
        if (runtimes := {runtime for runtime in having if _MODULES[runtime].installed()})
    }


def load_model(name: str, runtimes: Sequence[Runtime] = RUNTIMES, *, download: bool = False) -> Model:
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
    characters = graph.read_characters(listed) if listed.suffix == ".onnx" else zoo.read_characters(listed)
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
        return missing(name)
    if official.parts(name) is None:
        return "it is neither the name of a model nor the path of a folder"
    return f"it is not on this machine for {' or '.join(installed)}, and downloads are off (OCRPOOL_MODEL_DOWNLOAD)"


def _offered() -> str:
    there = ", ".join(available_models()) or "none"
    return f"this machine can run: {there}; PaddleX's download offers: {', '.join(official.OFFICIAL)}"
