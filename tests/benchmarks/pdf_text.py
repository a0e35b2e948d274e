"""What a PDF's own text saves: pages/s and CPU a page of one worker's engine and decoders, without a queue.

    python -m tests.benchmarks.pdf_text

reads the printed pages of a sample over and over, as `pdf_text=auto` and as `ocr`.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from producer.settings import Settings
from tests.worker.test_own_text import REPORT, read_by
from worker.engines import PpOcr
from worker.rasterise import Rasteriser

#: Pages read each way; the first round warms up.
ROUNDS = (("auto", 3), ("ocr", 3), ("auto", 30), ("ocr", 3))
PRINTED_PAGES = 3


def main() -> None:
    settings = Settings()
    rasteriser, engine = Rasteriser(settings), PpOcr(settings)
    rasteriser.start()
    engine.start()
    for how, pages in ROUNDS:
        began, used = time.perf_counter(), _cpu_s()
        with ThreadPoolExecutor(8) as threads:
            numbers = [1 + n % PRINTED_PAGES for n in range(pages)]
            read = list(threads.map(lambda page, how=how: read_by(engine, rasteriser, REPORT, page, how), numbers))
        took_s, used_s = time.perf_counter() - began, _cpu_s() - used
        sources = {page.source for page in read}
        print(f"{how}: {pages / took_s:.2f} pages/s, {used_s / pages:.3f} s of CPU a page, from {sources}", flush=True)
    engine.stop()
    rasteriser.stop()


def _cpu_s() -> float:
    me = psutil.Process()
    return float(sum(sum(process.cpu_times()[:2]) for process in [me, *me.children()]))


if __name__ == "__main__":
    main()
