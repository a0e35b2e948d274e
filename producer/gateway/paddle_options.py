"""The options of PaddleOCR and PaddleX as options of the pool: each takes effect, or is refused by its name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from producer.errors import InvalidRequest, Unavailable
from producer.gateway.problems import invalid
from producer.job import Contract, ReadOptions
from producer.ledger import Ledger
from producer.settings import Settings

#: Their names, and ours.
_NAMES = {
    "use_textline_orientation": "orientation",
    "text_det_limit_side_len": "detector_side_px",
    "text_det_limit_type": "detector_side",
    "text_det_thresh": "detector_threshold",
    "text_det_box_thresh": "detector_box_threshold",
    "text_det_unclip_ratio": "detector_unclip_ratio",
    "text_rec_score_thresh": "min_score",
    "visualize": "visualize",
    "page_ranges": "pages",
}
_THEIRS = {ours: to_camel(theirs) for theirs, ours in _NAMES.items()}
#: What the pool does not do, and what it says to whoever wants it.
_NEVER = {
    "use_doc_orientation_classify": "pages are read as they stand, turned only as their EXIF says",
    "use_doc_unwarping": "pages are not unwarped",
    "return_word_box": "lines are not cut into words",
}
#: What a worker says it runs, such as `latin_PP-OCRv5_mobile 3f2a onnxruntime 1.23`.
_RUNS = re.compile(r"(?:([a-z_]+)_)?PP-OCR(v\d+)_")
#: What a document's address begins with: a text of another kind must never be taken for a path.
WEB_ADDRESS = r"^[hH][tT][tT][pP][sS]?://"
#: Workers are asked again after this.
_FRESH_S = 5.0


class OcrOptions(Contract):
    """PaddleOCR's options of text recognition. Those that are left out are the pool's own."""

    model_config = ConfigDict(alias_generator=to_camel)

    use_doc_orientation_classify: bool | None = Field(None, description="Only false: pages are read as they stand.")
    use_doc_unwarping: bool | None = Field(None, description="Only false: pages are not unwarped.")
    use_textline_orientation: bool | None = Field(None, description="Turn text lines that stand upside down.")
    text_det_limit_side_len: int | None = Field(
        None, description="Limit of a page's side as the detector sees it, in pixels (32 to 4096)."
    )
    text_det_limit_type: Literal["min", "max"] | None = Field(
        None,
        description="Whether the shorter side has at least so many pixels, as far as the pool's shapes reach, or the "
        "longer one at most; `min` unless it is given, and only beside `textDetLimitSideLen`.",
    )
    text_det_thresh: float | None = Field(None, description="A pixel belongs to text above this probability.")
    text_det_box_thresh: float | None = Field(None, description="A line is kept from this mean probability on.")
    text_det_unclip_ratio: float | None = Field(None, description="How far found lines grow (above 0, at most 5).")
    text_rec_score_thresh: float | None = Field(None, description="Lines that are trusted less are left out.")
    return_word_box: bool | None = Field(None, description="Only false: lines are not cut into words.")
    visualize: bool | None = Field(None, description="Whether the result has a picture of each page with its lines.")

    def read_options(self, page_ranges: str | None = None) -> ReadOptions:
        """The pool's options.

        Raises:
            InvalidRequest: one is out of its bounds, or asks for what the pool does not do; the sentence names it.
        """
        for name, never in _NEVER.items():
            if getattr(self, name):
                raise InvalidRequest(f"{to_camel(name)}: {never}; ask with false or without it.")
        given = self.model_dump(exclude_none=True) | ({} if page_ranges is None else {"page_ranges": page_ranges})
        if "text_det_limit_side_len" in given:
            given.setdefault("text_det_limit_type", "min")
        elif "text_det_limit_type" in given:
            raise InvalidRequest("textDetLimitType: only beside textDetLimitSideLen, which it is the type of.")
        try:
            return ReadOptions.model_validate(
                {ours: given[theirs] for theirs, ours in _NAMES.items() if theirs in given}
            )
        except ValidationError as error:
            raise invalid([{**one, "loc": _theirs(one["loc"])} for one in error.errors(include_url=False)]) from error


def _theirs(loc: Sequence[Any]) -> tuple[Any, ...]:
    return (_THEIRS.get(loc[0], loc[0]), *loc[1:])


def refused(error: ValidationError) -> InvalidRequest:
    """The first complaint as a sentence; a name that is not known is told as such."""
    first: Mapping[str, Any] = error.errors(include_url=False)[0]
    if first["type"] == "extra_forbidden":
        return invalid([{**first, "msg": "this pool has no such option"}])
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == WEB_ADDRESS:
        return invalid([{**first, "msg": "an address begins with http:// or https://"}])
    return invalid([first])


class ServedModels:
    """Which of PaddleOCR's models the pool answers to. Blocks; safe to share between threads."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._known: Sequence[str] = settings.paddleocr_models
        self._fresh_until = 0.0

    def check(self, model: str) -> None:
        """Let a request in that names a model which the pool runs.

        Raises:
            InvalidRequest: it runs others.
            Unavailable: no worker has said yet what it runs, or the ledger cannot be read.
        """
        served = self._served()
        if not served:
            raise Unavailable("model: no worker is ready yet, and only workers know which models are served.")
        if model not in served:
            raise InvalidRequest(f"model: {model[:64]!r} is not served here; {', '.join(served)} is.")

    def _served(self) -> Sequence[str]:
        """What the workers run; while there is none, what the last ones ran."""
        if not self._settings.paddleocr_models and self._clock() >= self._fresh_until:
            workers = self._ledger.workers().values()
            self._known = sorted({family(worker.get("model", "")) for worker in workers} - {""}) or self._known
            self._fresh_until = self._clock() + (_FRESH_S if self._known else 0.0)
        return self._known


def family(model: str) -> str:
    """PaddleOCR's name for the models of a worker; empty for models that have none."""
    found = _RUNS.match(model)
    if found is None:
        return ""
    language, generation = found.groups()
    return f"PP-OCR{generation}{f'-{language}' if language else ''}"
