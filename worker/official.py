"""PaddleX's official models: their names, the cache that PaddleX keeps them in, and its download."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import structlog

from producer.errors import Unavailable

log = structlog.get_logger(__name__)

#: The recognisers for other alphabets, which share the detector of their generation.
_LANGUAGES = ["arabic", "cyrillic", "devanagari", "el", "en", "eslav", "korean", "latin", "ta", "te", "th"]
#: What PaddleX 3.7 offers that reads 48 pixels high lines. Shown to users; names of later releases are tried as well.
OFFICIAL = (
    *("PP-OCRv6_medium", "PP-OCRv6_small", "PP-OCRv6_tiny", "PP-OCRv5_server", "PP-OCRv5_mobile"),
    *("PP-OCRv4_server", "PP-OCRv4_server_doc", "PP-OCRv4_mobile", "en_PP-OCRv4_mobile"),
    *(f"{language}_PP-OCRv5_mobile" for language in _LANGUAGES),
)
#: `latin_PP-OCRv5_mobile`: a language, or none; the generation and size; a variant of the recogniser, or none.
_NAME = re.compile(r"([a-z_]+_)?(PP-OCRv\d+_[a-z]+?)(_doc)?")
#: PaddleX's word for the files of each runtime, and what it adds to the names of their folders.
_FORMATS: Mapping[str, tuple[str, str]] = {"onnxruntime": ("onnx", "_onnx"), "paddle": ("paddle", "")}


def parts(name: str) -> tuple[str, str] | None:
    """PaddleX's names of a model's detector and recogniser; none if the name is not of that form."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        return None
    language, base, variant = (group or "" for group in matched.groups())
    return f"{base}_det", f"{language}{base}_rec{variant}"


def cache_folder() -> Path:
    """Where PaddleX keeps its models; `PADDLE_PDX_CACHE_HOME` is PaddleX's own variable for it."""
    home = os.environ.get("PADDLE_PDX_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".paddlex") / "official_models"


def folders(part: str, runtime: str) -> list[Path]:
    """Where the cache may hold a detector or recogniser in the runtime's format, best first."""
    suffix = _FORMATS[runtime][1]
    return [cache_folder() / f"{part}{suffix}", cache_folder() / part]


def download(name: str, runtime: str) -> None:
    """Let PaddleX fetch a model into its cache; several processes may ask for the same one.

    PaddleX runs in a process of its own, because importing it loads much more and changes how a process logs.

    Raises:
        Unavailable: PaddleX is not installed, does not know the model, or reaches none of its sources.
    """
    if find_spec("paddlex") is None:
        raise Unavailable(f"it is not on this machine for {runtime}, and paddlex, which downloads it, is not installed")
    wanted = parts(name)
    assert wanted is not None, f"{name} is not of the form of PaddleX's names"
    log.info("model.downloading", model=name, runtime=runtime, folder=str(cache_folder()))
    command = [sys.executable, "-m", __name__, _FORMATS[runtime][0], *wanted]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        raise Unavailable(f"PaddleX could not download it for {runtime}: {said[-1].rstrip('.')}")


def _fetch(model_format: str, names: list[str]) -> None:
    from paddlex.inference.utils.official_models import official_models

    for name in names:
        if name not in official_models:
            raise LookupError(f"PaddleX has no model {name}")
    for name in names:
        official_models.get_model_path(name, model_formats=[model_format])


if __name__ == "__main__":
    try:
        _fetch(sys.argv[1], sys.argv[2:])
    except Exception as error:
        # PaddleX raises bare `Exception`s; one line is what the parent shows.
        sys.exit(" ".join(str(error).split()))
