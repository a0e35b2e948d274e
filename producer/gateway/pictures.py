"""Pictures of pages with their lines, as PaddleOCR and PaddleX give them beside a result."""

from __future__ import annotations

from functools import partial

from producer.errors import NotFound
from producer.exporting import Exporter
from producer.gateway.state import Gateway
from producer.job import PageResult


async def picture(gateway: Gateway, job_id: str, page: int) -> bytes:
    """The page's picture as PNG.

    Raises:
        NotFound: there is no such page, or it was not read.
        DocumentError, FormatUnavailable, PageTimeout, Unavailable: it cannot be made.
    """
    return await gateway.producer.export(partial(_picture, gateway, job_id, page))


def _picture(gateway: Gateway, job_id: str, page: int) -> bytes:
    producer = gateway.producer.producer
    found, job = producer.ledger.result(job_id), producer.ledger.job(job_id)
    read = next((one for one in found.pages if one.page == page and isinstance(one, PageResult)), None)
    if not isinstance(read, PageResult):
        raise NotFound(f"The page {page} was not read.")
    with (
        producer.blobs.local(job.blob) as document,
        Exporter(producer.settings).overlay(document, job, read) as file,
    ):
        return file.read()
