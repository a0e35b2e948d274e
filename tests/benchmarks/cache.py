"""What a document costs that the cache has, beside one that it has not: `python -m tests.benchmarks.cache`.

Through a gateway, one request after the other, with one worker and the fake predictor: submit and fetch
(`POST /v1/jobs`, `GET .../result`), and both in one (`POST /ocr`).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from statistics import median

import httpx
import numpy as np
from PIL import Image

from producer.embedded import pool_of_its_own
from producer.plan import one_worker
from producer.settings import Settings


def picture(seed: int) -> bytes:
    """Noise of about 50 KB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def submit_and_fetch(http: httpx.Client, document: bytes) -> bool:
    job = http.post("/v1/jobs", files={"file": document}).raise_for_status().json()
    if job["state"] != "succeeded":
        http.get(job["links"]["self"], params={"wait": 60}).raise_for_status()
    result = http.get(job["links"]["result"]).raise_for_status().json()
    return bool(result["pages"][0]["cached"])


def in_one(http: httpx.Client, document: bytes) -> bool:
    result = http.post("/ocr", files={"file": document}).raise_for_status().json()["result"]
    return bool(result["pages"][0]["cached"])


def times_ms(way: Callable[[httpx.Client, bytes], bool], http: httpx.Client, documents: list[bytes]) -> list[float]:
    """Each round trip's time, in order."""
    times = []
    for number, document in enumerate(documents):
        started = time.perf_counter()
        cached = way(http, document)
        times.append(1000 * (time.perf_counter() - started))
        if cached != (document in documents[:number]):
            raise RuntimeError("the cache did not do what is measured")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    requests = parser.parse_args().requests
    settings = Settings(predictor="fake", device="cpu", gateway_port=0)
    with pool_of_its_own(settings) as (parts, own):
        parts.start_redis()
        parts.start_workers(one_worker(own))
        with httpx.Client(base_url=parts.start_gateway(), timeout=60) as http:
            for seed, (name, way) in enumerate({"submit and fetch": submit_and_fetch, "/ocr": in_one}.items()):
                offset = 1_000_000 * (seed + 1)
                misses = times_ms(way, http, [picture(offset + number) for number in range(requests)])
                _, *hits = times_ms(way, http, [picture(offset - 1)] * (requests + 1))
                for kind, times in (("miss", misses), ("hit", hits)):
                    p99 = sorted(times)[int(0.99 * (len(times) - 1))]
                    print(f"{name:>16} {kind:>4}: median {median(times):6.2f} ms, p99 {p99:6.2f} ms")
                print(f"{name:>16}: a miss takes {median(misses) / median(hits):.1f} times as long as a hit")


if __name__ == "__main__":
    main()
