"""PaddleX's JSON: what its OCR pipeline saves and serves, by the field names of `paddlex` 3.7.

`render` is the `result` of its serving API; `pruned_result` one page of it. What the pool does not do (unwarping,
word boxes) is said in the fields that PaddleX has for it.
"""

from __future__ import annotations

import json
from typing import Any

from producer.formats.layout import bounds
from producer.job import Job, JobResult, MediaType, PageFailure, PageResult, ReadOptions

#: Class of a line that no classifier looked at.
NOT_CLASSIFIED = -1


def render(result: JobResult, job: Job) -> str:
    """`{"ocrResults": [{"prunedResult": ...}], "dataInfo": ...}`, one entry a page in page order."""
    return json.dumps(served_result(result, job), ensure_ascii=False)


def served_result(result: JobResult, job: Job) -> dict[str, Any]:
    """The `result` of PaddleX's serving API. A page that failed has its error where others have their lines."""
    pruned = [
        {"error": page.error.model_dump()} if isinstance(page, PageFailure) else pruned_result(page, job.options)
        for page in result.pages
    ]
    images: dict[str, None] = dict.fromkeys(("ocrImage", "docPreprocessingImage", "inputImage"))
    return {
        "ocrResults": [{"prunedResult": page, **images} for page in pruned],
        "dataInfo": _data_info(result, job.media_type),
    }


def pruned_result(page: PageResult, options: ReadOptions) -> dict[str, Any]:
    """One page as PaddleX's OCR pipeline tells of it, less `input_path` and `page_index`.

    `dt_polys` are the quads whose text was kept: those of lines below `min_score` are not in a result.
    """
    polygons = [[[round(x), round(y)] for x, y in line.quad] for line in page.lines]
    turned = options.orientation
    return {
        "model_settings": {"use_doc_preprocessor": False, "use_textline_orientation": turned},
        "dt_polys": polygons,
        "text_det_params": _detector_params(options),
        "text_type": "general",
        "textline_orientation_angles": [int(line.angle == 180) if turned else NOT_CLASSIFIED for line in page.lines],
        "text_rec_score_thresh": options.min_score,
        "return_word_box": False,
        "rec_texts": [line.text for line in page.lines],
        "rec_scores": [line.score for line in page.lines],
        "rec_polys": polygons,
        "rec_boxes": [list(bounds([line.quad])) for line in page.lines],
    }


def _detector_params(options: ReadOptions) -> dict[str, Any]:
    """Without a limit of its own, a page is shown to the detector in the size that the pool thinks best."""
    limit = (
        {"limit_side_len": options.detector_side_px, "limit_type": options.detector_side}
        if options.detector_side_px
        else {}
    )
    return limit | {
        "thresh": options.detector_threshold,
        "box_thresh": options.detector_box_threshold,
        "unclip_ratio": options.detector_unclip_ratio,
    }


def saved_result(page: PageResult, job: Job) -> dict[str, Any]:
    """One page as PaddleX's `save_to_json` writes it. `page_index` counts from 0, and is null for an image."""
    index = None if job.media_type.single_page else page.page - 1
    return {"input_path": job.name, "page_index": index, **pruned_result(page, job.options)}


def _data_info(result: JobResult, media_type: MediaType) -> dict[str, Any]:
    """Sizes in pixels; a page that failed has none."""
    sizes = [
        {"width": page.width, "height": page.height} if isinstance(page, PageResult) else {"width": 0, "height": 0}
        for page in result.pages
    ]
    if media_type.single_page:
        return {**sizes[0], "type": "image"} if sizes else {}
    kind = "pdf" if media_type is MediaType.PDF else "tiff"
    return {"numPages": result.pages_total or len(sizes), "pages": sizes, "type": kind}
