"""What the kernel's sandbox costs: pages a second of the rasteriser with it and without, in alternating rounds.

python -m tests.benchmarks.sandbox [ROUNDS]
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Literal

from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings
from tests.documents import samples, truth
from worker.rasterise import Rasteriser

PAGES_A_ROUND = 60
PROCESSES = 2


def pages_a_second(rasteriser: Rasteriser) -> float:
    """One round over the samples, with a thread for each decoder."""
    pages = [(path, page) for path in samples() for page in range(1, len(truth(path)) + 1)]
    work = (pages * PAGES_A_ROUND)[:PAGES_A_ROUND]
    types = {path: sniff(path.read_bytes()[:SNIFF_BYTES]) for path, _ in pages}
    began = time.perf_counter()
    with ThreadPoolExecutor(PROCESSES) as threads:
        list(threads.map(lambda item: rasteriser.page(item[0], types[item[0]], item[1]).close(), work))
    return PAGES_A_ROUND / (time.perf_counter() - began)


def main(rounds: int) -> None:
    modes: tuple[Literal["on", "off"], ...] = ("on", "off")
    rasterisers = {mode: Rasteriser(Settings(rasterise_processes=PROCESSES, sandbox=mode)) for mode in modes}
    rates: dict[str, list[float]] = {mode: [] for mode in rasterisers}
    try:
        for rasteriser in rasterisers.values():
            rasteriser.start()
            pages_a_second(rasteriser)  # warm
        for number in range(rounds):
            order = list(rasterisers) if number % 2 else list(reversed(rasterisers))
            for mode in order:
                rates[mode].append(pages_a_second(rasterisers[mode]))
    finally:
        for rasteriser in rasterisers.values():
            rasteriser.stop()
    on, off = median(rates["on"]), median(rates["off"])
    cost = 100 * (1 - on / off)
    print(f"sandbox on {on:.1f} pages/s, off {off:.1f} pages/s: it costs {cost:.1f}% (medians of {rounds} rounds)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
