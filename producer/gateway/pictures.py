"""Pictures of pages with their lines, as PaddleOCR and PaddleX give them beside a result."""

from __future__ import annotations

from functools import partial

from producer.gateway.state import Gateway


async def picture(gateway: Gateway, job_id: str, page: int) -> bytes:
    """The page's picture as PNG.

    Raises:
        NotFound: there is no such page.
        OcrpoolError: it was not read, or the picture cannot be made; see `Results.overlay`.
    """
    return await gateway.producer.export(partial(_picture, gateway, job_id, page))


def _picture(gateway: Gateway, job_id: str, page: int) -> bytes:
    producer = gateway.producer.producer
    with producer.results.overlay(producer.ledger.result(job_id), page) as file:
        return file.read()
