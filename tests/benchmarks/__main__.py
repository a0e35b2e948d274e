"""`make bench`: the pool against RapidOCR on the same pages, and the queue's own cost, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from tests.benchmarks.corpus import Accuracy, Page, accuracy, receipts
from tests.benchmarks.peers import RapidOcrLoop
from tests.benchmarks.pool import MeasuredPool, mean, measured_pool
from tests.documents import png, tiff

console = Console(highlight=False, width=118)


class Reader(Protocol):
    """What reads the pages: the pool, or a peer."""

    @property
    def name(self) -> str: ...

    def read(self, paths: Sequence[Path]) -> tuple[float, list[str]]:
        """Seconds for all images, and their texts."""
        ...


def compare(pages: list[Page], rounds: int) -> dict[str, Any]:
    """All in turn, `rounds` times: the machine's speed drifts, their ratio does not."""
    paths = [page.path for page in pages]
    seconds: dict[str, list[float]] = {}
    read: dict[str, Accuracy] = {}
    with measured_pool() as pool:
        peers: list[Reader] = [RapidOcrLoop(paths[0], orientation=orientation) for orientation in (True, False)]
        pool.read(paths[:2])
        before = pool.metrics()
        for number in range(rounds):
            for one in (*peers, pool):
                took_s, texts = one.read(paths)
                seconds.setdefault(one.name, []).append(took_s)
                read[one.name] = accuracy(pages, texts)
                console.print(f"  round {number + 1}: {one.name}: {len(paths) / took_s:.2f} pages/s")
        stages = stage_figures(pool, before)
        latencies_ms = [pool.read(paths[:1])[0] * 1000 for _ in range(5)]
    rates = {name: len(paths) / statistics.median(taken) for name, taken in seconds.items()}
    return {
        "pages_per_s": rates,
        "ratio": {
            name: statistics.median(a / b for a, b in zip(taken, seconds[pool.name], strict=True))
            for name, taken in seconds.items()
        },
        "accuracy": {name: asdict(one) for name, one in read.items()},
        "lone_page_latency_ms": statistics.median(latencies_ms),
        **stages,
    }


def stage_figures(pool: MeasuredPool, before: dict[tuple[str, str], float]) -> dict[str, Any]:
    now = pool.metrics()
    real, padded = (
        now[key] - before.get(key, 0) for key in (("line_pixels_total", "text"), ("line_pixels_total", "padding"))
    )
    return {
        "recogniser_padding": padded / (real + padded),
        "mean_batch": {stage: mean(now, before, "batch_size", stage) for stage in ("detector", "recogniser")},
        "batch_run_ms": {
            stage: 1000 * mean(now, before, "batch_run_seconds", stage) for stage in ("detector", "recogniser")
        },
        "page_stage_ms": {
            stage: 1000 * mean(now, before, "stage_seconds", stage) for stage in ("rasterise", "detect", "recognise")
        },
    }


def queue_cost(jobs: int, pages: int) -> dict[str, Any]:
    """With the fake predictor: one-page jobs one after the other, then many pages and the memory they leave."""
    costs_ms = []
    with measured_pool(predictor="fake") as pool:
        document = png("null")
        for _ in range(jobs):
            started = time.perf_counter()
            job = pool.producer.submit(document)
            job.wait(timeout_s=60)
            (page,) = job.result().pages
            took_ms = 1000 * (time.perf_counter() - started)
            costs_ms.append(took_ms - sum(page.timings.model_dump().values()))  # type: ignore[union-attr]
        rss, seconds = read_many(pool, pages)
    return {
        "jobs": jobs,
        "queue_cost_ms": {"median": statistics.median(costs_ms), "p99": statistics.quantiles(costs_ms, n=100)[98]},
        "pages": pages,
        "pages_per_s": pages / seconds,
        "rss_mb": [round(one / 1e6, 1) for one in rss],
    }


def read_many(pool: MeasuredPool, pages: int) -> tuple[list[int], float]:
    """The worker's memory before, at each quarter and at the end; and the time taken."""
    document = tiff(["null"] * 50)
    rss = [pool.rss_bytes()]
    started = time.perf_counter()
    for _ in range(4):
        ids = [pool.producer.submit(document).id for _ in range(pages // 200)]
        for _status in pool.producer.follow(ids, timeout_s=600):
            pass
        rss.append(pool.rss_bytes())
    return rss, time.perf_counter() - started


def show(figures: dict[str, Any]) -> None:
    both, queue = figures["comparison"], figures["queue"]
    names = list(both["pages_per_s"])
    table = Table("figure", *names, title=f"{figures['corpus']}, {figures['machine']}")
    table.add_row("pages/s, median", *(f"{both['pages_per_s'][name]:.2f}" for name in names))
    table.add_row("the pool's rate, as a multiple", *(f"{both['ratio'][name]:.2f}" for name in names))
    for kind in ("character_f1", "word_f1"):
        table.add_row(kind.replace("_", " "), *(f"{both['accuracy'][name][kind]:.4f}" for name in names))

    def row(title: str, *values: float, form: str = ".0f") -> None:
        table.add_row(title, *[""] * (len(names) - 1), " / ".join(f"{value:{form}}" for value in values))

    row("recogniser padding", both["recogniser_padding"], form=".1%")
    row("mean batch: pages / lines", *both["mean_batch"].values(), form=".1f")
    row("a batch in the predictor: pages / lines, ms", *both["batch_run_ms"].values())
    row("a page, waits included: rasterise / detect / recognise, ms", *both["page_stage_ms"].values())
    row("one page alone, from submit to result, ms", both["lone_page_latency_ms"])
    row("null engine: queue's own cost a page, median / p99, ms", *queue["queue_cost_ms"].values(), form=".1f")
    row(f"null engine: pages/s over {queue['pages']} pages", queue["pages_per_s"])
    row("null engine: RSS at the start and each quarter, MB", *queue["rss_mb"])
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--pages", type=int, default=40, help="most pages of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench-results/bench.json"))
    options = parser.parse_args()
    corpus, pages = receipts(options.pages)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    console.print(f"Reading {corpus} with each, in turn")
    figures: dict[str, Any] = {"corpus": corpus, "machine": machine, "comparison": compare(pages, options.rounds)}
    console.print("Measuring the queue alone")
    figures["queue"] = queue_cost(jobs=200, pages=2000)
    show(figures)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
