"""Who gets which CPUs: cards, cores and workers of machines that are not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.cards import Card
from producer.cpus import Cpus, as_ranges, cores, from_ranges, split
from producer.plan import WorkerPlan, plan_workers
from producer.settings import Settings

#: Eight cores of two threads each: CPU 0 and 8 are one core, 1 and 9 the next, and so on.
CORES = [frozenset({core, core + 8}) for core in range(8)]
LOW, HIGH = from_ranges("0-3,8-11"), from_ranges("4-7,12-15")


def card(number: int, cpus: Cpus = frozenset()) -> Card:
    return Card(f"GPU-{number}", "NVIDIA H100", 80 << 30, number, cpus)


def shown(plans: Sequence[WorkerPlan]) -> list[tuple[str | None, str]]:
    return [(plan.card.uuid if plan.card else None, as_ranges(plan.cpus)) for plan in plans]


@pytest.mark.parametrize(
    ("cards", "per_card", "expected"),
    [
        # No card: one worker with everything.
        ([], 2, [(None, "0-15")]),
        # The driver does not tell what is near: all cores are shared out, threads of one core together.
        ([card(0), card(1)], 1, [("GPU-0", "0-3,8-11"), ("GPU-1", "4-7,12-15")]),
        # A card on each socket.
        ([card(0, HIGH), card(1, LOW)], 1, [("GPU-0", "4-7,12-15"), ("GPU-1", "0-3,8-11")]),
        # Two cards on one socket, one on the other; the cards keep their order.
        (
            [card(0, LOW), card(1, HIGH), card(2, LOW)],
            1,
            [("GPU-0", "0-1,8-9"), ("GPU-1", "4-7,12-15"), ("GPU-2", "2-3,10-11")],
        ),
        # Several workers on a card share its cores.
        (
            [card(0, LOW), card(1, HIGH)],
            2,
            [("GPU-0", "0-1,8-9"), ("GPU-0", "2-3,10-11"), ("GPU-1", "4-5,12-13"), ("GPU-1", "6-7,14-15")],
        ),
        # The cores near it are not ours: the card works all the same.
        ([card(0, frozenset({64}))], 1, [("GPU-0", "0-15")]),
    ],
)
def test_cards_get_the_cores_near_them(
    cards: list[Card], per_card: int, expected: list[tuple[str | None, str]]
) -> None:
    assert shown(plan_workers(Settings(workers_per_card=per_card), CORES, cards)) == expected


@pytest.mark.parametrize(
    ("memory_gib", "cards", "each"),
    # Memory decides, up to three; then the cores, of which there are eight.
    [(16, 1, 1), (48, 1, 2), (80, 1, 2), (80, 2, 1), (141, 16, 1)],
)
def test_a_card_gets_as_many_workers_as_suit_its_memory_and_cores(memory_gib: int, cards: int, each: int) -> None:
    found = [replace(card(number), memory_bytes=memory_gib << 30) for number in range(cards)]
    assert len(plan_workers(Settings(), CORES, found)) == each * cards


def test_a_number_of_workers_shares_the_cpu_and_hides_the_cards() -> None:
    plans = plan_workers(Settings(worker_metrics_port=9108), CORES, [card(0)], workers=3)

    assert shown(plans) == [(None, "0-1,8-9"), (None, "2-4,10-12"), (None, "5-7,13-15")]
    assert [plan.environment()["CUDA_VISIBLE_DEVICES"] for plan in plans] == ["", "", ""]
    assert {plan.environment()["OCRPOOL_DEVICE"] for plan in plans} == {"cpu"}
    assert [plan.environment()["OCRPOOL_WORKER_METRICS_PORT"] for plan in plans] == ["9108", "9109", "9110"]


def test_a_worker_is_told_its_card_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (plan,) = plan_workers(Settings(workers_per_card=1), CORES, [card(7, LOW)])
    assert plan.environment() == {
        "CUDA_VISIBLE_DEVICES": "GPU-7",
        "OCRPOOL_PREDICTOR_THREADS": "8",
        "OCRPOOL_RASTERISE_PROCESSES": "8",
        "OCRPOOL_WORKER_METRICS_PORT": "0",
        "OMP_NUM_THREADS": "8",
    }
    (plan,) = plan_workers(Settings(predictor_threads=2, rasterise_processes=3), CORES)
    assert (plan.threads, plan.decoders) == (2, 3), "what is set for each worker is not divided"
    assert "CUDA_VISIBLE_DEVICES" not in plan.environment(), "there may be cards that NVML does not show"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(1, 60))
def test_cpus_are_shared_evenly_and_by_few_only_where_they_are_few(threads: list[int], parts: int) -> None:
    of, first = [], 0
    for count in threads:
        of.append(frozenset(range(first, first + count)))
        first += count

    shares = split(of, parts)

    assert len(shares) == parts
    assert all(shares)
    if first >= parts:
        assert sum(map(len, shares)) == first == len(frozenset().union(*shares))
    if len(of) >= parts:
        counts = [sum(core <= share for core in of) for share in shares]
        assert sum(counts) == len(of), "a core stays whole"
        assert max(counts) - min(counts) <= 1


def test_threads_of_a_core_are_told_by_linux(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}.items():
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(f"{siblings}\n")

    assert cores({0, 1, 4, 9}, tmp_path) == [{0, 4}, {1}, {9}]


@given(st.frozensets(st.integers(0, 300)))
def test_ranges_are_read_as_they_are_written(cpus: Cpus) -> None:
    assert from_ranges(as_ranges(cpus)) == cpus
