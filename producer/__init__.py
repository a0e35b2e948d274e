"""The light side of ocrpool: hand in documents, follow their jobs, fetch their text. Needs no GPU, numpy or OpenCV."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from producer.client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
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


def __getattr__(name: str) -> Any:
    """The clients: they need httpx, which nothing else here does."""
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from producer import client
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs httpx: pip install 'ocrpool[client]'.") from error
    return getattr(client, name)
