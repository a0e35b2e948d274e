"""What the pool is measured against: readers that people use today, each as its documentation shows it, warm."""

from __future__ import annotations

import os
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from producer.errors import Unavailable
from producer.settings import Settings
from worker.bench.meter import on_card
from worker.bench.readers import Reader
from worker.runtimes import choose

#: Where PaddleX keeps what it has downloaded.
PADDLEX_MODELS = Path(os.environ.get("PADDLE_PDX_CACHE_HOME") or Path.home() / ".paddlex") / "official_models"
#: The pairs that `paddleocr` is tried with, the nearest to the pool's own model first.
PADDLEOCR_MODELS = ("PP-OCRv6_small", "PP-OCRv5_mobile", "PP-OCRv4_mobile", "PP-OCRv5_server")


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise Unavailable(f"the package {package} is not installed")


def rapidocr(*, orientation: bool, threads: int = -1) -> Any:
    """RapidOCR with its own defaults, on the card if the pool runs there.

    On a card its default search for convolutions starts anew for each shape, and takes minutes; this is its best.
    """
    _require("rapidocr")
    from rapidocr import RapidOCR

    card = on_card(runtime())
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": orientation,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.use_cuda": card,
            **({"EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT"} if card else {}),
        }
    )


@cache
def runtime() -> str:
    """The model and runtime that the pool picks here; peers run on the same device."""
    choice = choose(Settings())
    return f"{choice.model.fingerprint} {choice.execution}"


def rapidocr_text(found: Any) -> str:
    """The text of a result of RapidOCR."""
    return "\n".join(getattr(found, "txts", None) or ())


class RapidOcr(Reader):
    """RapidOCR in a loop, every core inside the call. By default it asks a classifier for the orientation of every
    line; the pool does so on request only."""

    orientation = True

    def __init__(self) -> None:
        self._engine = rapidocr(orientation=self.orientation)
        self.model = runtime()

    def read(self, path: str) -> str:
        return rapidocr_text(self._engine(path))


class RapidOcrUpright(RapidOcr):
    """The same without the classifier: what the pool does, too."""

    orientation = False


class RapidOcrThreads(Reader):
    """A RapidOCR for each core, with one thread inside each call; orientation off."""

    def __init__(self) -> None:
        self.width = len(os.sched_getaffinity(0))
        self._idle = [rapidocr(orientation=False, threads=1) for _ in range(self.width)]
        self._lock = threading.Lock()
        self.model = runtime()

    def read(self, path: str) -> str:
        with self._lock:
            engine = self._idle.pop()
        try:
            return rapidocr_text(engine(path))
        finally:
            with self._lock:
                self._idle.append(engine)


class RapidOcrPaddle(Reader):
    """RapidOCR on Paddle in a loop; orientation off."""

    def __init__(self) -> None:
        _require("rapidocr_paddle")
        from rapidocr_paddle import RapidOCR

        self._engine = RapidOCR()
        self.model = "paddle cpu"

    def read(self, path: str) -> str:
        found, _ = self._engine(path, use_cls=False)
        return "\n".join(text for _, text, _ in found or ())


class PaddleOcr(Reader):
    """PaddleOCR's own pipeline in a loop, without what the pool does not do: orientation and unwarping."""

    def __init__(self) -> None:
        _require("paddleocr")
        names = [
            name
            for name in PADDLEOCR_MODELS
            if all((PADDLEX_MODELS / f"{name}_{stage}").is_dir() for stage in ("det", "rec"))
        ]
        if not names:
            raise Unavailable(f"paddleocr has no models in {PADDLEX_MODELS}")
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        from paddleocr import PaddleOCR

        self._pipeline = PaddleOCR(
            text_detection_model_name=f"{names[0]}_det",
            text_recognition_model_name=f"{names[0]}_rec",
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
        )
        self.model = f"{names[0]} paddle {'gpu' if on_card(runtime()) else 'cpu'}"

    def read(self, path: str) -> str:
        return "\n".join(text for result in self._pipeline.predict(path) for text in result["rec_texts"])
