"""The light side of ocrpool: hand in documents, follow their jobs, fetch their text. Needs no GPU, numpy or OpenCV."""

from producer.errors import OcrpoolError
from producer.job import (
    ErrorDetail,
    JobResult,
    JobState,
    JobStatus,
    Lane,
    Line,
    PageFailure,
    PageResult,
    ReadOptions,
)
from producer.producer import JobHandle, Producer
from producer.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "ErrorDetail",
    "JobHandle",
    "JobResult",
    "JobState",
    "JobStatus",
    "Lane",
    "Line",
    "OcrpoolError",
    "PageFailure",
    "PageResult",
    "Producer",
    "ReadOptions",
    "Settings",
]
