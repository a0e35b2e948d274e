"""Sets of CPUs: which ones are one core, and how cores are shared out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

Cpus = frozenset[int]

_TOPOLOGY = Path("/sys/devices/system/cpu")
_WORD_BITS = 64


def from_words(words: Iterable[int]) -> Cpus:
    """The CPUs whose bits are set in 64-bit words, lowest first."""
    return frozenset(
        number * _WORD_BITS + bit for number, word in enumerate(words) for bit in range(_WORD_BITS) if word >> bit & 1
    )


def from_ranges(text: str) -> Cpus:
    """`0-3,8` as Linux writes it."""
    bounds = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(cpu for first, _, last in bounds for cpu in range(int(first), int(last or first) + 1))


def as_ranges(cpus: Collection[int]) -> str:
    """The inverse of `from_ranges`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def cores(allowed: Collection[int], topology: Path = _TOPOLOGY) -> list[Cpus]:
    """The allowed CPUs, those that are threads of one core together; each alone where Linux does not tell."""
    found: dict[Cpus, None] = {}
    for cpu in sorted(allowed):
        try:
            siblings = from_ranges((topology / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings = frozenset()
        found[(siblings & frozenset(allowed)) | {cpu}] = None
    return list(found)


def split(of: Sequence[Cpus], parts: int) -> list[Cpus]:
    """The cores' CPUs in `parts` even sets of neighbours. Cores are cut into threads, and then shared, only where
    there are too few."""
    units = of if len(of) >= parts else [frozenset({cpu}) for core in of for cpu in sorted(core)]
    if len(units) < parts:
        return [units[part % len(units)] for part in range(parts)]
    bounds = [part * len(units) // parts for part in range(parts + 1)]
    return [frozenset().union(*units[low:high]) for low, high in pairwise(bounds)]
