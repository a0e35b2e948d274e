"""Pages that harm whoever reads them, among others of the same document and of other users."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.dead import DeadLetters
from producer.job import JobState, PageFailure
from tests.chaos.oracle import Report, judge
from tests.chaos.pool import MakePool, Pool

FAULTY_WORKER = str(Path(__file__).parents[1] / "faulty_worker.py")
BAD_PAGE, PAGES = 3, 6


def poisoned_load(chaos: Pool, report: Report, harmful: int, **harm: int) -> list[str]:
    """Hand in documents of which so many have a page that brings the fault about; returns those."""
    at = set(chaos.random.sample(range(30), harmful))
    jobs = [chaos.submit(PAGES, **harm if number in at else {}) for number in range(30)]
    report.seconds = round(chaos.finish(240), 1)
    report.faults = harmful
    return [job_id for number, job_id in enumerate(jobs) if number in at]


def assert_one_page_failed(chaos: Pool, job_id: str, code: str) -> None:
    result = chaos.ledger.result(job_id)
    assert result.state is JobState.PARTIAL
    (failure,) = [page for page in result.pages if isinstance(page, PageFailure)]
    assert (failure.page, failure.error.code) == (BAD_PAGE, code)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["crash", "hang", "hang-alone"])
def test_a_page_that_takes_its_worker_along_is_given_up_alone(
    fault: str, pool: MakePool, seed: int, full: bool
) -> None:
    chaos, report = pool(batch_timeout_s=2.0), Report(f"a page brings about: {fault}", seed)
    chaos.start_workers(2, FAULTY_WORKER, fault, "")
    guilty = poisoned_load(chaos, report, 2 if full else 1, black=BAD_PAGE)
    for job_id in guilty:
        assert_one_page_failed(chaos, job_id, "poison_document")
    letters = DeadLetters(chaos.ledger).all()
    assert sorted(letter.job_id for letter in letters) == sorted(guilty)
    judge(chaos, report, but=len(guilty), ends=3 * len(guilty))


@pytest.mark.chaos
def test_a_page_without_room_in_the_predictor_costs_no_other(pool: MakePool, seed: int) -> None:
    chaos, report = pool(), Report("the predictor has no memory for a page", seed)
    chaos.start_workers(2, FAULTY_WORKER, "memory", "")
    guilty = poisoned_load(chaos, report, 5, black=BAD_PAGE)
    for job_id in guilty:
        assert_one_page_failed(chaos, job_id, "engine_out_of_memory")
    judge(chaos, report, but=len(guilty))


@pytest.mark.chaos
def test_a_page_without_room_in_a_decoder_costs_no_other(pool: MakePool, seed: int) -> None:
    chaos, report = pool(rasterise_memory_bytes=1 << 27), Report("a decoder has no memory for a page", seed)
    chaos.start_workers(2)
    guilty = poisoned_load(chaos, report, 5, huge=BAD_PAGE)
    for job_id in guilty:
        assert_one_page_failed(chaos, job_id, "image_too_large")
    judge(chaos, report, but=len(guilty))
