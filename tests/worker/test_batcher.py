"""When a batch leaves, and what becomes of the items that should not be in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from producer.errors import Cancelled, DeadlineExceeded, EngineOutOfMemory, Internal, Unavailable
from producer.job import Lane
from worker.backlog import BULK_SHARE, STARVED_WINDOWS
from worker.batcher import Batcher
from worker.device import Device, DeviceFailed, Trouble
from worker.groups import Batches
from worker.records import BatchRecord
from worker.streak import LEAST_GROUPS, MOST_FAILURES

PATIENCE_S = 10.0
WINDOW_S = 0.05


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Doubler:
    """A runner that answers with twice each item, and remembers its batches."""

    batches: list[list[int]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, bucket: str, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return [2 * item for item in items]


class Bench:
    """A batcher with a runner, a clock and an upstream that the test moves by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pages_upstream = 1
        self.device: Device | None = None
        self.runner = Doubler()
        self.records: list[BatchRecord] = []
        self.batcher: Batcher[str, int, int] = self.build(self.runner)

    def build(self, *runners: Callable[[str, list[int]], Sequence[int]], capacity: int = 100) -> Batcher[str, int, int]:
        self.batcher = Batcher(
            "lines",
            runners,
            max_batch=lambda bucket: 4,
            max_delay_s=WINDOW_S,
            capacity=capacity,
            device=self.device,
            upstream=lambda: self.pages_upstream,
            slots=lambda bucket, items: 4,
            clock=self.clock,
            observer=self.records.append,
        )
        return self.batcher

    def submit(
        self, *items: int, bucket: str = "wide", lane: Lane = Lane.INTERACTIVE, deadline: float | None = None
    ) -> list[Future[int]]:
        return [self.batcher.submit(item, bucket=bucket, lane=lane, deadline=deadline) for item in items]

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.batcher.notify()

    def finish(self) -> None:
        self.batcher.stop()
        assert self.batcher.join(PATIENCE_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.runner.gate.set()
    bench.finish()


def answers(futures: list[Future[int]]) -> list[int]:
    return [future.result(PATIENCE_S) for future in futures]


def test_a_full_batch_leaves_without_waiting(bench: Bench) -> None:
    # Given a page upstream that might still add lines, and a clock that stands still
    bench.batcher.start()

    # When as many lines come as a batch holds
    futures = bench.submit(1, 2, 3, 4)

    # Then they leave together
    assert answers(futures) == [2, 4, 6, 8]
    assert bench.runner.batches == [[1, 2, 3, 4]]


def test_a_batch_leaves_when_its_oldest_item_has_waited_the_window(bench: Bench) -> None:
    bench.batcher.start()
    first = bench.submit(1)
    bench.pass_time(WINDOW_S * 0.75)
    second = bench.submit(2)

    # When the first item, not the second, has waited long enough
    bench.pass_time(WINDOW_S * 0.25)

    assert answers(first + second) == [2, 4]
    assert bench.runner.batches == [[1, 2]]


def test_a_batch_leaves_at_once_when_nothing_upstream_can_join(bench: Bench) -> None:
    bench.batcher.start()
    futures = bench.submit(1, 2)

    # When the last page upstream is done, although no time has passed
    bench.pages_upstream = 0
    bench.batcher.notify()

    assert answers(futures) == [2, 4]
    assert bench.runner.batches == [[1, 2]]


def test_only_items_of_one_bucket_share_a_batch_and_the_oldest_goes_first(bench: Bench) -> None:
    narrow = bench.submit(1, bucket="narrow")
    bench.clock.now += WINDOW_S / 10
    wide = bench.submit(2, bucket="wide")
    narrow += bench.submit(3, bucket="narrow")

    bench.clock.now += WINDOW_S
    bench.batcher.start()

    assert answers(narrow + wide) == [2, 6, 4]
    assert bench.runner.batches == [[1, 3], [2]]


def test_a_full_bucket_goes_before_an_older_one_that_is_not(bench: Bench) -> None:
    old = bench.submit(1, bucket="narrow")
    bench.clock.now += WINDOW_S
    full = bench.submit(2, 3, 4, 5, bucket="wide")
    bench.batcher.start()

    assert answers(old + full) == [2, 4, 6, 8, 10]
    assert bench.runner.batches == [[2, 3, 4, 5], [1]]


def test_a_rare_bucket_does_not_starve_behind_full_ones(bench: Bench) -> None:
    rare = bench.submit(1, bucket="narrow")
    bench.clock.now += WINDOW_S * 20
    common = bench.submit(2, 3, 4, 5, bucket="wide")
    bench.batcher.start()

    assert answers(rare + common) == [2, 4, 6, 8, 10]
    assert bench.runner.batches == [[1], [2, 3, 4, 5]]


def test_interactive_items_leave_first_and_bulk_fills_their_batch(bench: Bench) -> None:
    bulk = bench.submit(1, 2, 3, 4, 5, lane=Lane.BULK)
    mine = bench.submit(6, 7)
    bench.pages_upstream = 0
    bench.batcher.start()

    assert answers(bulk + mine) == [2, 4, 6, 8, 10, 12, 14]
    assert bench.runner.batches[0] == [6, 7, 1, 2]


def test_an_interactive_item_waits_behind_one_batch_of_bulk_at_most(bench: Bench) -> None:
    # Given full batches of bulk, and an interactive item whose window is open
    bulk = bench.submit(*range(12), bucket="narrow", lane=Lane.BULK)
    mine = bench.submit(100)
    bench.batcher.start()

    # Then one of them leaves first, so that company may come, and then the item goes alone
    assert answers(bulk + mine) == [2 * item for item in [*range(12), 100]]
    assert [len(batch) for batch in bench.runner.batches] == [4, 1, 4, 4]


def test_starving_bulk_leads_its_share_of_the_batches(bench: Bench) -> None:
    bulk = bench.submit(1, 2, bucket="narrow", lane=Lane.QUARANTINE)
    bench.clock.now += STARVED_WINDOWS * WINDOW_S
    mine = bench.submit(*range(10, 10 + 4 * BULK_SHARE))
    bench.batcher.start()

    answers(bulk + mine)
    assert bench.runner.batches.index([1, 2]) == BULK_SHARE - 1


def test_an_idle_device_takes_what_there_is(bench: Bench) -> None:
    # Given a device that runs one batch at a time, two runners, and a page upstream that might still add lines
    bench.device = Device(1)
    bench.build(bench.runner, bench.runner).start()
    bench.runner.gate.clear()

    # When lines come one after the other
    futures = bench.submit(1)
    assert bench.runner.entered.wait(PATIENCE_S)
    futures += bench.submit(2, 3)
    bench.batcher.notify()
    assert bench.batcher.queued == 2
    bench.runner.gate.set()

    # Then the first does not wait, and the next ones gather while it runs, although a runner is free
    assert answers(futures) == [2, 4, 6]
    assert bench.runner.batches == [[1], [2, 3]]


def test_stages_of_one_device_know_of_each_other(bench: Bench) -> None:
    # Given a device that is busy with a batch of another stage
    bench.device = Device(1)
    bench.device.begin()
    bench.build(bench.runner).start()
    futures = bench.submit(1, 2)
    assert bench.batcher.queued == 2

    # When that one is done, although no time has passed
    bench.device.end()

    assert answers(futures) == [2, 4]
    assert bench.runner.batches == [[1, 2]]


def test_items_handed_in_together_have_one_future(bench: Bench) -> None:
    bench.pages_upstream = 0
    bench.batcher.start()

    answered = bench.batcher.submit_many([1, 2, 3], buckets=["wide", "narrow", "wide"])

    assert answered.result(PATIENCE_S) == [2, 4, 6]
    assert bench.batcher.submit_many([], buckets=[]).result(0) == []


def test_one_bad_item_fails_those_handed_in_with_it_and_no_others(bench: Bench) -> None:
    def picky(bucket: str, items: list[int]) -> Sequence[int]:
        if bad := [item for item in items if item < 0]:
            raise ValueError(max(bad))
        return [2 * item for item in items]

    bench.build(picky)
    guilty = bench.batcher.submit_many([1, -2, -1], buckets=["wide"] * 3)
    other = bench.batcher.submit_many([5], buckets=["wide"])
    bench.batcher.start()

    # The error is that of the first bad item, whichever ran first
    with pytest.raises(ValueError, match="-2"):
        guilty.result(PATIENCE_S)
    assert other.result(PATIENCE_S) == [10]


def test_items_past_their_deadline_or_cancelled_never_reach_the_runner(bench: Bench) -> None:
    flag = threading.Event()
    late = bench.submit(1, deadline=0.01)[0]
    unwanted = bench.batcher.submit(2, bucket="wide", cancelled=flag.is_set)
    withdrawn = bench.submit(3)[0]
    wanted = bench.submit(4)[0]

    flag.set()
    withdrawn.cancel()
    bench.clock.now += WINDOW_S
    bench.batcher.start()

    assert wanted.result(PATIENCE_S) == 8
    assert isinstance(late.exception(PATIENCE_S), DeadlineExceeded)
    assert isinstance(unwanted.exception(PATIENCE_S), Cancelled)
    assert withdrawn.cancelled()
    assert bench.runner.batches == [[4]]


def test_one_bad_item_fails_alone(bench: Bench) -> None:
    def picky(bucket: str, items: list[int]) -> Sequence[int]:
        if 3 in items:
            raise ValueError("not three")
        return [2 * item for item in items]

    bench.build(picky).start()
    one, two, three, four = bench.submit(1, 2, 3, 4)

    assert answers([one, two, four]) == [2, 4, 8]
    with pytest.raises(ValueError, match="not three"):
        three.result(PATIENCE_S)


def test_running_out_of_memory_lowers_the_batch_size_for_a_while(bench: Bench) -> None:
    sizes: list[int] = []

    def card(bucket: str, items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        if len(sizes) == 1:
            raise MemoryError
        return items

    # Given a card that has no room for the first batch
    bench.build(card, capacity=10_000)
    futures = bench.submit(*range(1000))
    bench.batcher.start()

    # Then every item is read, in smaller batches that grow back after many that went well
    assert answers(futures) == list(range(1000))
    assert sizes[:4] == [4, 2, 2, 2]
    assert sizes[-1] == 4
    assert sizes.index(3) > 50


def test_an_item_that_never_fits_gets_its_own_code(bench: Bench) -> None:
    def no_card(bucket: str, items: list[int]) -> Sequence[int]:
        raise MemoryError

    bench.build(no_card).start()
    futures = bench.submit(1, 2, 3, 4)

    assert all(isinstance(future.exception(PATIENCE_S), EngineOutOfMemory) for future in futures)


def test_a_runner_that_answers_too_few_is_caught(bench: Bench) -> None:
    bench.build(lambda bucket, items: items[:1]).start()
    one, two, *_ = bench.submit(1, 2, 3, 4)

    # Alone, each item gets the one answer that was meant for it
    assert answers([one, two]) == [1, 2]

    bench.finish()
    bench.build(lambda bucket, items: []).start()
    assert isinstance(bench.submit(1, 2, 3, 4)[0].exception(PATIENCE_S), Internal)


def test_submit_blocks_while_the_queue_is_full(bench: Bench) -> None:
    bench.build(bench.runner, capacity=1)
    first = bench.submit(1)
    done = threading.Event()
    later: list[Future[int]] = []

    def submit_second() -> None:
        later.extend(bench.submit(2))
        done.set()

    thread = threading.Thread(target=submit_second)
    thread.start()
    bench.pages_upstream = 0
    assert not done.is_set()

    # When the queue has room again
    bench.batcher.start()

    assert done.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert answers(first + later) == [2, 4]


def test_an_item_that_finds_no_room_before_its_deadline_is_refused(bench: Bench) -> None:
    bench.build(bench.runner, capacity=1)
    bench.submit(1)

    late = bench.submit(2, deadline=0.0)[0]

    assert isinstance(late.exception(PATIENCE_S), DeadlineExceeded)


def test_stop_drains_what_is_queued_and_refuses_the_rest(bench: Bench) -> None:
    futures = bench.submit(1, 2)
    bench.batcher.start()
    bench.batcher.stop()
    refused = bench.submit(3)[0]

    assert answers(futures) == [2, 4]
    assert isinstance(refused.exception(PATIENCE_S), Unavailable)
    assert bench.batcher.join(PATIENCE_S)
    assert bench.batcher._crew.alive == 0


def test_nobody_waits_for_a_runner_that_died(bench: Bench) -> None:
    def dying(bucket: str, items: list[int]) -> Sequence[int]:
        raise SystemExit

    bench.build(dying)
    futures = bench.submit(1, 2, 3, 4, 5, 6)
    bench.batcher.start()

    # Those that it had are lost with it; the others may be read elsewhere
    assert all(isinstance(future.exception(PATIENCE_S), Internal) for future in futures[:4])
    assert all(isinstance(future.exception(PATIENCE_S), Unavailable) for future in futures[4:])
    assert bench.batcher.join(PATIENCE_S)
    assert isinstance(bench.submit(7)[0].exception(PATIENCE_S), Unavailable)
    assert bench.batcher.trouble(60) == Trouble("lines: a runner ended with SystemExit")


def test_a_device_that_fails_is_given_up_by_all_its_stages(bench: Bench) -> None:
    # Given a card with two stages, and items that wait for a batch of either
    calls: list[list[int]] = []

    def run(bucket: str, items: list[int]) -> Sequence[int]:
        calls.append(items)
        raise DeviceFailed("CUDA failure 700: an illegal memory access was encountered")

    bench.device = device = Device(1)
    other = bench.build(bench.runner)
    others = bench.submit(10, 11)
    bench.build(run)
    on_card, waiting = bench.submit(1, 2, 3, 4), bench.submit(5, 6)

    # When it fails under one batch
    bench.batcher.step()

    # Then that batch is not tried again, and its items know that they were there; all others may be read elsewhere
    assert calls == [[1, 2, 3, 4]]
    assert all(type(future.exception(0)) is DeviceFailed for future in on_card)
    later = [*bench.submit(7), other.submit(12, bucket="wide")]
    assert all(type(future.exception(0)) is Unavailable for future in (*waiting, *others, *later))
    assert device.trouble(60) == Trouble("CUDA failure 700: an illegal memory access was encountered")


def test_where_nothing_works_any_more_no_item_is_to_blame(bench: Bench) -> None:
    def broken(bucket: str, items: list[int]) -> Sequence[int]:
        raise ValueError("no kernel")

    # Given a few pages of which every line fails
    bench.device = device = Device(1)
    bench.build(broken)
    for page in range(LEAST_GROUPS - 1):
        bench.batcher.submit_many([page] * MOST_FAILURES, buckets=["wide"] * MOST_FAILURES)
    while bench.batcher.step():
        pass
    assert not device.failure

    # When a line of one page more does
    last, unread = bench.batcher.submit_many([7, 8], buckets=["narrow"] * 2), bench.submit(9)[0]
    bench.batcher.step()

    # Then the stage takes no more, and what it has not tried may be read elsewhere
    assert isinstance(last.exception(0), ValueError)
    assert type(unread.exception(0)) is Unavailable
    assert "no kernel" in device.failure


def test_a_group_learns_which_batches_had_its_items(bench: Bench) -> None:
    # Given a page's three lines of two widths, and another's line that shares a batch with two of them
    mine: Batches = []
    bench.batcher.submit_many([1, 2, 3], buckets=["wide", "narrow", "wide"], batches=mine)
    bench.clock.now += WINDOW_S
    bench.submit(4)
    # When they are read
    while bench.batcher.step():
        pass
    # Then the page knows its part of each batch
    shares = [record.share(items, submitted_at=0.0) for record, items in mine]
    assert sorted((share.items, share.size, share.fill, share.wait_ms) for share in shares) == [
        (1, 1, 0.25, 1000 * WINDOW_S),
        (2, 3, 0.75, 1000 * WINDOW_S),
    ]
    assert {share.batch for share in shares} == {1, 2}


def test_every_batch_is_recorded_for_the_metrics(bench: Bench) -> None:
    bench.submit(1)
    bench.clock.now += WINDOW_S
    bench.submit(2)
    bench.batcher.start()
    bench.finish()

    assert bench.records == [
        BatchRecord(
            "lines",
            "wide",
            number=1,
            began_at=WINDOW_S,
            size=2,
            max_size=4,
            slots=4,
            waited_s=WINDOW_S,
            mean_wait_s=WINDOW_S / 2,
            calls=1,
        )
    ]


def test_a_watchdog_sees_a_runner_that_hangs(bench: Bench) -> None:
    # Given a runner that does not come back
    bench.device = device = Device(1, clock=bench.clock)
    bench.build(bench.runner).start()
    bench.runner.gate.clear()
    bench.submit(1, 2, 3, 4)
    assert bench.runner.entered.wait(PATIENCE_S)

    # When more than a minute passes and work piles up
    bench.clock.now += 61
    bench.submit(5)

    # Then it shows, and which batch it is; an idle batcher never looks hung
    assert device.trouble(60) == Trouble("lines: 4 items of wide: running for 61 s", hangs=True)
    assert device.trouble(62) is None
    bench.runner.gate.set()
    bench.finish()
    assert device.trouble(0) is None
    assert bench.batcher.trouble(0) is None


def test_a_watchdog_sees_items_that_no_runner_takes(bench: Bench) -> None:
    # Given a runner that hangs while it looks whether a batch may leave, with the batcher's lock held
    gate, entered = threading.Event(), threading.Event()

    def upstream() -> int:
        entered.set()
        gate.wait()
        return 0

    bench.batcher = Batcher(
        "lines",
        [bench.runner],
        max_batch=lambda bucket: 4,
        max_delay_s=WINDOW_S,
        capacity=8,
        upstream=upstream,
        clock=bench.clock,
    )
    bench.batcher.start()
    bench.submit(1)
    assert entered.wait(PATIENCE_S)
    assert bench.batcher.trouble(60) is None

    bench.clock.now += 61

    assert bench.batcher.trouble(60) == Trouble("lines: 1 items wait, and none has moved for 61 s", hangs=True)
    gate.set()


def test_a_runner_that_cannot_prepare_keeps_the_batcher_from_starting() -> None:
    # Given two runners, the second of which has no room for its model
    def fail() -> None:
        raise MemoryError("no room")

    runners: list[Callable[[str, list[int]], list[int]]] = [lambda bucket, items: items] * 2
    batcher = Batcher(
        "stage", runners, max_batch=lambda bucket: 4, max_delay_s=0, capacity=8, prepare=[lambda: None, fail]
    )

    with pytest.raises(MemoryError, match="no room"):
        batcher.start()

    # Then it can still be stopped, and what is handed in afterwards is refused
    batcher.stop()
    assert batcher.join(timeout_s=5)
    with pytest.raises(Unavailable):
        batcher.submit(1, bucket="a").result(timeout=5)
