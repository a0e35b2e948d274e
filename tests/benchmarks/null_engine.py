"""`python -m tests.benchmarks.null_engine`: gives every page of an image an empty outcome once it is published.

A worker's part of the ledger's calls (claim, finish, release) and nothing else: what is measured is the gateway.
PDFs are left alone: their jobs go on for as long as they are wanted.
"""

from __future__ import annotations

import base64
import json
import time
from typing import cast

from producer.job import Lane, PageResult, SpanMessage, Timings
from producer.ledger import Claim, Ledger
from producer.queue import READ_SPAN_TASK
from producer.settings import Settings

#: How it reads, for the cache.
READER = "0"
ANNOUNCE_S = 3.0


def read(ledger: Ledger, payload: bytes) -> None:
    envelope = json.loads(payload)
    if envelope["headers"]["task"] != READ_SPAN_TASK:
        return
    _, named, _ = json.loads(base64.b64decode(envelope["body"]))
    message = SpanMessage.model_validate(named["message"])
    claim = ledger.claim(message.job_id, str(message.span), "null")
    if isinstance(claim, Claim):
        for page in claim.pages:
            ledger.finish_page(claim, nothing(page), reader=READER)
        ledger.release(claim, again=False)


def nothing(page: int) -> PageResult:
    timings = Timings(rasterise_ms=0, detect_ms=0, recognise_ms=0)
    return PageResult(page=page, width=1, height=1, lines=(), text="", engine="pp-ocr", model="null", timings=timings)


def main() -> None:
    settings = Settings()
    ledger = Ledger(settings)
    queues = [f"{settings.namespace}.{lane}" for lane in Lane]
    announced_at = -ANNOUNCE_S
    while True:
        if time.monotonic() - announced_at >= ANNOUNCE_S:
            announced_at = time.monotonic()
            ledger.announce("null", {}, READER)
        if (found := ledger.redis.brpop(queues, timeout=1)) is not None:
            read(ledger, cast(bytes, found[1]))


if __name__ == "__main__":
    main()
