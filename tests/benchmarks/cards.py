"""What one card does, and several: the whole pool through Redis and Celery, beside its ceiling and its beginnings.

    python -m tests.benchmarks.cards [--cards 1,2,4] [--workers-per-card 1,2] [--documents 2000] [--output cards.json]

In one run, on one machine and the same pages (`OCRPOOL_EVAL_DATA`): the pool on so many cards with so many workers
each; the predictors alone, fed with the batches that these pages make; one page at a time with fixed shapes at batch 1;
RapidOCR in a loop on a card. All load at the same time, because that takes minutes, and are measured one after the
other; workers that a row does not count take no messages while it is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from producer import Producer
from producer.cards import find_cards
from producer.embedded import Embedded, pool_of_its_own
from producer.job import JobResult, JobState, PageFailure, ReadOptions
from producer.plan import WorkerPlan, plan_for_this_machine
from producer.processes import Process
from producer.settings import Settings
from worker.bench.corpus import Page, accuracy, load_corpus

#: Documents that each client has handed in and not got back.
OUTSTANDING = 120
#: About how long each rival is measured.
SECONDS = 10
Samples = dict[tuple[str, str], float]


class Crew(NamedTuple):
    """Who takes messages: so many cards, and so many workers on each."""

    cards: int
    each: int

    def __str__(self) -> str:
        return f"{self.cards} card(s), {self.each} worker(s) each"


def tell(title: str, **figures: object) -> dict[str, object]:
    print(title, json.dumps(figures), flush=True)
    return figures


# The pool


def client(settings: Settings, documents: Sequence[Path], ready: Any, go: Any, done: Any) -> None:
    """Hand in the documents, some at a time, and take the time of each."""
    latencies: list[float] = []
    waiting = list(documents)
    with Producer(settings) as producer:
        ready.put(True)
        go.wait()
        started = time.time()
        since: dict[str, float] = {}
        while waiting or since:
            while waiting and len(since) < OUTSTANDING:
                since[producer.submit(waiting.pop()).id] = time.time()
            for status in producer.follow(list(since), timeout_s=120):
                if status.final:
                    if status.state is not JobState.SUCCEEDED:
                        raise SystemExit(f"{status.id} ended as {status.state}: a rate of failures is no figure")
                    latencies.append(time.time() - since.pop(status.id))
                if waiting and len(since) < OUTSTANDING // 2:
                    break
    done.put((started, time.time(), latencies))


def load(settings: Settings, pages: list[Page], documents: int, clients: int) -> tuple[float, list[float]]:
    """Seconds for so many documents, and the latency of each."""
    paths = [pages[n % len(pages)].path for n in range(documents)]
    ready: Any = multiprocessing.Queue()
    done: Any = multiprocessing.Queue()
    go = multiprocessing.Event()
    processes = [
        multiprocessing.Process(target=client, args=(settings, paths[n::clients], ready, go, done), daemon=True)
        for n in range(clients)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.get(timeout=60)
    go.set()
    spans = [done.get(timeout=300) for _ in processes]
    took_s = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return took_s, sorted(latency for _, _, several in spans for latency in several)


def samples(producer: Producer) -> Samples:
    """The sums of all workers' samples."""
    found: Samples = {}
    for worker in producer.ledger.workers().values():
        text = httpx.get(f"http://{worker['metrics']}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name.removeprefix("ocrpool_worker_"), ",".join(sample.labels.values())
                found[key] = found.get(key, 0) + sample.value
    return found


@contextmanager
def busy(cards: int) -> Iterator[Callable[[], list[float]]]:
    """Samples NVML's utilisation of each card; gives the mean of the middle 80%, in percent."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(cards)]
    except Exception as error:
        print(f"no card's utilisation: {error}")
        handles = []
    seen: list[list[float]] = []
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(0.05):
            seen.append([pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles])

    def means() -> list[float]:
        middle = seen[len(seen) // 10 : len(seen) - len(seen) // 10]
        return [round(statistics.fmean(column), 1) for column in zip(*middle, strict=True)] if middle else []

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield means
    finally:
        stopping.set()
        thread.join()


def measure(
    producer: Producer, settings: Settings, pages: list[Page], crew: Crew, options: argparse.Namespace
) -> dict[str, object]:
    """One round of load."""
    documents, clients = options.documents * crew.cards, options.clients * crew.cards
    before = samples(producer)
    workers = [psutil.Process(worker["pid"]) for worker in producer.ledger.workers().values()]
    cpu_s = sum(sum(worker.cpu_times()[:2]) for worker in workers)
    with busy(len(find_cards().cards)) as means:
        took_s, latencies = load(settings, pages, documents, clients)
        busy_percent = means()
    cpu_s = sum(sum(worker.cpu_times()[:2]) for worker in workers) - cpu_s
    now = samples(producer)
    change = {key: now[key] - before.get(key, 0) for key in now}

    def mean(name: str, stage: str) -> float:
        return change.get((f"{name}_sum", stage), 0) / max(1, change.get((f"{name}_count", stage), 0))

    stages = ("detector", "recogniser")
    pixels = {kind: change.get(("line_pixels_total", kind), 0) for kind in ("text", "padding", "empty")}
    return tell(
        f"{crew}, whole pool:",
        pages_per_s=round(len(latencies) / took_s, 1),
        busy_percent=busy_percent,
        latency_ms={
            name: round(1000 * latencies[int(part * len(latencies))]) for name, part in (("p50", 0.5), ("p95", 0.95))
        },
        worker_cpu_ms_a_page=round(1000 * cpu_s / len(latencies), 2),
        mean_batch={stage: round(mean("batch_size", stage), 1) for stage in stages},
        run_ms={stage: round(1000 * mean("batch_run_seconds", stage), 2) for stage in stages},
        page_ms={name: round(1000 * mean("stage_seconds", name), 1) for name in ("rasterise", "detect", "recognise")},
        padding=round(pixels["padding"] / max(1, pixels["text"] + pixels["padding"]), 4),
        empty=round(pixels["empty"] / max(1, sum(pixels.values())), 4),
        card_memory_gb={kind: round(now.get(("card_memory_bytes", kind), 0) / 1e9, 2) for kind in ("used", "held")},
    )


def use(settings: Settings, plans: Sequence[WorkerPlan], nodes: Sequence[str], crew: Crew) -> None:
    """Let only the first workers of the first cards take messages."""
    from celery import Celery

    from producer.job import Lane
    from producer.queue import broker_settings, queue_prefix

    app = Celery(set_as_current=False)
    app.conf.update(broker_settings(settings))
    room = dict.fromkeys(list(dict.fromkeys(plan.card for plan in plans))[: crew.cards], crew.each)
    for plan, node in zip(plans, nodes, strict=True):
        verb = "add_consumer" if room.get(plan.card) else "cancel_consumer"
        if verb == "add_consumer":
            room[plan.card] -= 1
        for lane in Lane:
            queue = {"queue": queue_prefix(settings) + lane}
            if not app.control.broadcast(verb, arguments=queue, destination=[node], reply=True, timeout=3, limit=1):
                raise SystemExit(f"{node} did not answer to {verb}")


# What it is compared with. Each function runs in a process of its own, which says when it is ready and then waits.


def ceiling(settings: Settings, pages: list[Page], ready: Any, go: Any, done: Any) -> None:
    """The predictors alone, with full batches: as many of each bucket as these pages make, made beforehand."""
    from worker.detection import Detector
    from worker.predictors import Shape, Stage
    from worker.recognition import Recogniser
    from worker.runtimes import build_predictor, choose
    from worker.shapes import resolve

    choice = choose(settings)
    shapes = resolve(settings, choice.shapes)
    detector, recogniser = Detector(shapes), Recogniser(choice.model, shapes)
    rasters = [pixels_of(page.path) for page in pages]
    items = [detector.prepare(pixels) for pixels in rasters]
    finder = build_predictor(choice.model, Stage.DETECTOR, detector.shapes, choice.execution)
    finder.warm_up()
    counts: dict[tuple[Stage, tuple[int, int]], float] = {}
    for pixels, (item, bucket) in zip(rasters, items, strict=True):
        counts[Stage.DETECTOR, bucket] = counts.get((Stage.DETECTOR, bucket), 0) + 1
        loaded = type(item)(finder.kernels.load(pixels), item.height, item.width)
        quads = detector.finish(detector.run(finder, bucket, [loaded])[0], item)
        for line in recogniser.prepare(pixels, quads):
            counts[Stage.RECOGNISER, line.bucket] = counts.get((Stage.RECOGNISER, line.bucket), 0) + 1
    largest = {
        (stage, bucket): Shape((detector if stage is Stage.DETECTOR else recogniser).max_batch(bucket), *bucket)
        for stage, bucket in counts
    }
    reader = build_predictor(
        choice.model,
        Stage.RECOGNISER,
        {shape for (stage, _), shape in largest.items() if stage is Stage.RECOGNISER},
        choice.execution,
    )
    reader.warm_up()
    ready.put(True)
    go.wait()
    seconds = 0.0
    for (stage, bucket), number in counts.items():
        predictor = finder if stage is Stage.DETECTOR else reader
        shape = largest[stage, bucket]
        sides = (shape.batch, 3, shape.height, shape.width)
        tensor = np.random.default_rng(0).uniform(-1, 1, sides).astype(np.float32)
        predictor.run(tensor)  # and from then on, on a card, the same values where they lie
        batch = getattr(predictor.kernels, "input", tensor.reshape(-1))[: tensor.size].reshape(tensor.shape)
        taken: list[float] = []
        while len(taken) < 20 and sum(taken) < SECONDS / len(counts):
            started = time.perf_counter()
            predictor.run(batch)
            taken.append(time.perf_counter() - started)
        seconds += number / shape.batch * statistics.median(taken)
    done.put({"pages_per_s": round(len(pages) / seconds, 1), "lines_a_page": round(lines_of(counts) / len(pages), 1)})


def lines_of(counts: dict[Any, float]) -> float:
    return sum(number for (stage, _), number in counts.items() if stage == "recogniser")


def one_at_a_time(settings: Settings, pages: list[Page], ready: Any, go: Any, done: Any) -> None:
    """One page after the other, one line after the other, in the same fixed shapes."""
    from worker.engines import PpOcr

    alone = settings.model_copy(update={"detector_batches": (1,), "recogniser_batches": (1,)})
    engine = PpOcr(alone)
    engine.start()
    rasters = [Decoded(page.path) for page in pages]
    ready.put(True)
    go.wait()
    taken: list[float] = []
    for raster in rasters * 3:
        if len(taken) > len(rasters) // 4 and sum(taken) > SECONDS:
            break
        started = time.perf_counter()
        with engine.passage(ReadOptions(), time.monotonic() + 60, lambda: False) as passage:
            passage.read(1, raster, 0)
        taken.append(time.perf_counter() - started)
    done.put({"pages_per_s": round(len(taken) / sum(taken), 2), "pages": len(taken)})
    engine.stop()


def rapidocr(settings: Settings, pages: list[Page], ready: Any, go: Any, done: Any) -> None:
    """RapidOCR as its documentation has it, on a card where there is one, with its best convolution search there."""
    import onnxruntime
    from rapidocr import RapidOCR

    onnxruntime.set_default_logger_severity(3)  # it warns of every convolution
    on_card = bool(find_cards().cards)
    params: dict[str, object] = {"Global.log_level": "error"}
    if on_card:
        params |= {
            "EngineConfig.onnxruntime.use_cuda": True,
            "EngineConfig.onnxruntime.cuda_ep_cfg.cudnn_conv_algo_search": "DEFAULT",
        }
    engine = RapidOCR(params=params)
    engine(str(pages[0].path))
    ready.put(True)
    go.wait()
    started, read = time.perf_counter(), 0
    while read < len(pages) and time.perf_counter() - started < SECONDS:
        engine(str(pages[read].path))
        read += 1
    done.put({"pages_per_s": round(read / (time.perf_counter() - started), 3), "pages": read})


def pixels_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


class Decoded:
    """A page that needs no decoding any more; see `worker.rasterise.Raster`."""

    angle = 0

    def __init__(self, path: Path) -> None:
        self.pixels = pixels_of(path)
        self.height, self.width = self.pixels.shape[:2]


class Rival:
    """One of the functions above, in a process of its own."""

    def __init__(self, title: str, run: Callable[..., None], settings: Settings, pages: list[Page]) -> None:
        self.title = title
        self._ready: Any = multiprocessing.Queue()
        self._done: Any = multiprocessing.Queue()
        self._go = multiprocessing.Event()
        arguments = (settings, pages, self._ready, self._go, self._done)
        self._process = multiprocessing.Process(target=run, args=arguments, daemon=True)
        self._process.start()

    def wait(self, timeout_s: float) -> None:
        """Until it is ready: while it loads, nothing else can be measured."""
        try:
            self._ready.get(timeout=timeout_s)
        except queue.Empty:
            tell(f"{self.title}:", not_ready_after_s=timeout_s)
            self._process.kill()

    def measure(self) -> dict[str, object]:
        try:
            self._go.set()
            return tell(f"{self.title}:", **self._done.get(timeout=90))
        except Exception as error:
            return tell(f"{self.title}:", not_run=f"{type(error).__name__} {error}")
        finally:
            self._process.kill()


def start_pool(parts: Embedded, plans: Sequence[WorkerPlan], timeout_s: float) -> list[Process]:
    started = time.monotonic()
    processes = parts.start_workers(plans, ready_timeout_s=timeout_s)
    tell("ready:", workers=len(processes), seconds=round(time.monotonic() - started))
    print_logs(parts, "worker.warm|card.memory|decoder")
    return processes


def print_logs(parts: Embedded, pattern: str) -> None:
    """The lines of all workers' logs in which the pattern is found, the last 40 of each."""
    for log in sorted(parts.log_dir.glob("worker-*.log")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if re.search(pattern, line)]
        print("\n".join([f"-- {log.name}", *lines[-40:]]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", default="1", help="how many, one after the other: 1,2,4")
    parser.add_argument("--workers-per-card", default="1", help="how many, one after the other: 1,2,3")
    parser.add_argument("--decoders", type=int, default=3, help="decoder processes a worker")
    parser.add_argument("--documents", type=int, default=2000, help="for each card")
    parser.add_argument("--clients", type=int, default=3, help="processes that hand in, for each card")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ready-s", type=float, default=300)
    parser.add_argument("--pool-only", action="store_true", help="nothing to compare with, whose models need memory")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    scratch = Path(tempfile.mkdtemp(prefix="ocrpool-bench-"))  # receipts are drawn there if no corpus is found
    found_corpus = load_corpus(None, 40, scratch)
    corpus, pages = found_corpus.name, list(found_corpus.pages)
    found = find_cards()
    wanted = [int(number) for number in options.cards.split(",") if int(number) <= max(1, len(found.cards))]
    each = [int(number) for number in options.workers_per_card.split(",")]
    # Workers that a row does not count see messages wait and receive none.
    chosen = Settings(
        cache_ttl_s=0, workers_per_card=max(each), rasterise_processes=options.decoders, intake_timeout_s=86_400
    )
    figures: dict[str, object] = {"corpus": corpus, "cards": [str(card) for card in found.cards] or found.reason}
    tell("machine:", **figures, cores=os.cpu_count())
    try:
        figures |= run(options, chosen, pages, [Crew(cards, workers) for cards in wanted for workers in each])
    finally:
        if options.output:
            options.output.write_text(json.dumps(figures, indent=2) + "\n")


def run(options: argparse.Namespace, chosen: Settings, pages: list[Page], crews: Sequence[Crew]) -> dict[str, object]:
    figures: dict[str, object] = {}
    with pool_of_its_own(chosen) as (parts, own):
        parts.start_redis()
        plans = plan_for_this_machine(own).workers
        cards = list(dict.fromkeys(plan.card for plan in plans))[: max(crew.cards for crew in crews)]
        plans = tuple(plan for plan in plans if plan.card in cards)
        rivals = [
            Rival(title, rival, own, pages)
            for title, rival in (
                ("one page at a time, batch 1, fixed shapes", one_at_a_time),
                ("predictors alone", ceiling),
            )
            if not options.pool_only
        ]
        try:
            processes = start_pool(parts, plans, options.ready_s)
            for rival in rivals:
                rival.wait(options.ready_s)
            with Producer(own) as producer:
                nodes = celery_names(producer, processes)
                figures |= alone(producer, pages)
                for crew in crews:
                    use(own, plans, nodes, crew)
                    figures[str(crew)] = [measure(producer, own, pages, crew, options) for _ in range(options.rounds)]
                    print(memory_used(), flush=True)
        except BaseException:
            print_logs(parts, "error|warn|trouble|fail|Error")
            raise
        for rival in rivals:
            figures[rival.title] = rival.measure()
        if options.pool_only:
            return figures
        rapid = Rival("RapidOCR in a loop", rapidocr, own, pages)
        rapid.wait(120)
        figures[rapid.title] = rapid.measure()
    return figures


def alone(producer: Producer, pages: list[Page]) -> dict[str, object]:
    """The time of one document in an idle pool, and how well all of them are read."""
    figures: dict[str, object] = {}
    lone = []
    for page in pages[:15]:
        started = time.perf_counter()
        producer.submit(page.path).wait(timeout_s=60)
        lone.append(time.perf_counter() - started)
    figures["lone_ms"] = tell("one document alone:", median_ms=round(1000 * statistics.median(lone), 1))
    jobs = [producer.submit(page.path) for page in pages]
    for _ in producer.follow([job.id for job in jobs], timeout_s=120):
        pass
    results = [job.result() for job in jobs]
    check(results)
    read = accuracy(pages, [result.text for result in results])
    if read is not None:
        figures["accuracy"] = tell("accuracy:", character_f1=round(read.character_f1, 4), word_f1=read.word_f1)
    return figures


def check(results: Sequence[JobResult]) -> None:
    """Raises SystemExit: pages failed, and a rate of failures is no figure."""
    failed = [page.error for result in results for page in result.pages if isinstance(page, PageFailure)]
    if failed:
        raise SystemExit(f"{len(failed)} pages failed, the first with: {failed[0].code}: {failed[0].message}")


def celery_names(producer: Producer, processes: Sequence[Process]) -> list[str]:
    """What Celery calls each of the workers."""
    by_pid = {worker["pid"]: (name, worker["host"]) for name, worker in producer.ledger.workers().items()}
    return ["@".join(by_pid[process.popen.pid]) for process in processes]


def memory_used() -> str:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "no nvidia-smi"


if __name__ == "__main__":
    main()
