"""Models in PaddleX's folder format, made of the ones inside the installed packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from worker import zoo
from worker.models import Model
from worker.predictors import Stage, graph

#: What PaddleX calls the folders of `PP-OCRv6_small` and the like.
FOLDERS = {Stage.DETECTOR: "det", Stage.RECOGNISER: "rec", Stage.ORIENTATION: "textline_ori"}


def bundled_characters(name: str) -> Sequence[str]:
    bundle = zoo.BUNDLES[name].files()
    assert bundle is not None
    if bundle.characters.suffix == ".onnx":
        return graph.read_characters(bundle.characters)
    return zoo.read_characters(bundle.characters)


def write_description(folder: Path, characters: Sequence[str], height: int = 48) -> None:
    """An `inference.yml` with the parts of PaddleX's that are read."""
    description = {
        "Global": {"model_name": folder.name},
        "PreProcess": {"transform_ops": [{"DecodeImage": None}, {"RecResizeImg": {"image_shape": [3, height, 320]}}]},
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list(characters)},
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(description, allow_unicode=True), encoding="utf-8")


def write_folder(root: Path, model: Model, stages: Sequence[Stage] = (Stage.DETECTOR, Stage.RECOGNISER)) -> Path:
    """The files of a bundled model under `root`, as PaddleX lays them out. Links, because only names matter."""
    for stage in stages:
        folder = root / FOLDERS[stage]
        folder.mkdir(parents=True)
        source = model.paths[stage]
        for file in source.glob("inference.*") if source.is_dir() else [source]:
            (folder / f"inference{file.suffix}").symlink_to(file)
    if Stage.RECOGNISER in stages:
        write_description(root / FOLDERS[Stage.RECOGNISER], bundled_characters(model.name))
    return root
