"""The batcher as a state machine, stepped by hand: in whatever order things happen, each future resolves once, the
records add up, and the device is given up when it fails or when nothing works on it any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from producer.errors import Cancelled, DeadlineExceeded, EngineOutOfMemory, Internal, Unavailable
from producer.job import Lane
from worker.batcher import Batcher
from worker.device import Device, DeviceFailed
from worker.records import BatchRecord
from worker.streak import LEAST_GROUPS, MOST_FAILURES

WINDOW_S = 1.0
CAPACITY = 12
MAX_BATCH = {"narrow": 2, "wide": 1, "tall": 6}

Fate = Literal["fine", "raises", "too big"]


class Refused(Exception):
    """What the runner raises for a bad item."""


@dataclass(frozen=True)
class Item:
    number: int
    bucket: str
    fate: Fate


@dataclass(eq=False)
class Handed:
    """What was handed in together, and what came back."""

    items: list[Item]
    deadline: float | None
    future: Future[list[int]] | None = None
    flagged: bool = False
    resolved: int = 0
    ran: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Hand:
    """A submission to come."""

    items: list[tuple[str, Fate]]
    lane: Lane
    patience_s: float | None


fates: st.SearchStrategy[Fate] = st.sampled_from(("fine", "fine", "fine", "raises", "too big"))
hands = st.builds(
    Hand,
    items=st.lists(st.tuples(st.sampled_from(sorted(MAX_BATCH)), fates), min_size=1, max_size=8),
    lane=st.sampled_from(Lane),
    patience_s=st.none() | st.sampled_from((0.5, 5.0)),
)


class BatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.upstream = 1
        self.stopped = False
        self.fits = 6
        self.dies = False
        self.spoilt = self.was_spoilt = False
        self.device_fails = self.device_should_have_failed = False
        self.failures_in_a_row: list[Handed] = []
        self.suspects: set[int] = set()
        self.meanwhile: list[Hand] = []
        self.handed: list[Handed] = []
        self.owners: dict[int, Handed] = {}
        self.answered: Counter[int] = Counter()
        self.records: list[BatchRecord] = []

    @initialize(runners=st.integers(1, 3), room=st.integers(0, 2))
    def build(self, runners: int, room: int) -> None:
        self.alive = list(range(runners))
        self.device = Device(room, clock=lambda: self.now)
        self.batcher: Batcher[str, Item, int] = Batcher(
            "lines",
            [self.run] * runners,
            max_batch=MAX_BATCH.__getitem__,
            max_delay_s=WINDOW_S,
            capacity=CAPACITY,
            device=self.device,
            upstream=lambda: self.upstream,
            slots=lambda bucket, items: MAX_BATCH[bucket],
            clock=lambda: self.now,
            observer=self.records.append,
        )

    def run(self, bucket: str, items: list[Item]) -> Sequence[int]:
        """The runner. What comes `meanwhile` is handed in before it answers."""
        assert not self.device_should_have_failed
        for item in items:
            owner = self.owners[item.number]
            assert item.bucket == bucket
            assert item.number not in self.answered
            assert len(items) <= MAX_BATCH[bucket]
            owner.ran.add(item.number)
        hands, self.meanwhile = self.meanwhile, []
        for hand in hands:
            self.submit(hand)
        if self.dies:
            self.dies = False
            raise SystemExit
        if self.device_fails:
            self.suspects = {item.number for item in items}
            self.device_should_have_failed = True
            raise DeviceFailed("no more")
        if error := self.error(items):
            if len(items) == 1:
                self.failures_in_a_row.append(self.owners[items[0].number])
                if len(self.failures_in_a_row) >= MOST_FAILURES and len({*self.failures_in_a_row}) >= LEAST_GROUPS:
                    self.device_should_have_failed = True
            raise error
        self.failures_in_a_row.clear()
        self.answered.update(item.number for item in items)
        return [item.number for item in items]

    def error(self, items: list[Item]) -> Exception | None:
        if len(items) > self.fits or any(item.fate == "too big" for item in items):
            return MemoryError()
        if self.spoilt or any(item.fate == "raises" for item in items):
            return Refused()
        return None

    @rule(hand=hands)
    def submit(self, hand: Hand) -> None:
        first = len(self.owners)
        items = [Item(first + n, bucket, fate) for n, (bucket, fate) in enumerate(hand.items)]
        refused = self.stopped or bool(self.device.failure)
        full = self.batcher.queued >= CAPACITY and not refused
        # Nobody makes room while the machine waits, so that a submission to a full queue must be late.
        deadline = self.now if full else None if hand.patience_s is None else self.now + hand.patience_s
        handed = Handed(items, deadline)
        self.handed.append(handed)
        self.owners.update((item.number, handed) for item in items)
        handed.future = self.batcher.submit_many(
            items,
            buckets=[item.bucket for item in items],
            lane=hand.lane,
            deadline=deadline,
            cancelled=lambda: handed.flagged,
        )
        handed.future.add_done_callback(lambda future: self.count(handed))

    @staticmethod
    def count(handed: Handed) -> None:
        handed.resolved += 1

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), withdraw=st.booleans())
    def cancel(self, data: st.DataObject, withdraw: bool) -> None:
        handed = data.draw(st.sampled_from(self.handed))
        if not withdraw:
            handed.flagged = True
        elif handed.future is not None and handed.future.cancel():
            assert not handed.ran

    @rule(seconds=st.sampled_from((0.25, WINDOW_S, 12 * WINDOW_S)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.batcher.notify()

    @rule(upstream=st.integers(0, 1))
    def change_upstream(self, upstream: int) -> None:
        self.upstream = upstream
        self.batcher.notify()

    @rule(fits=st.integers(1, 6))
    def change_memory(self, fits: int) -> None:
        self.fits = fits

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), meanwhile=st.lists(hands, max_size=2))
    def step(self, data: st.DataObject, meanwhile: list[Hand]) -> None:
        self.meanwhile = meanwhile
        self.batcher.step(data.draw(st.sampled_from(self.alive)))
        self.meanwhile = []

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), handed=st.lists(hands, min_size=2, max_size=5))
    def spoil(self, data: st.DataObject, handed: list[Hand]) -> None:
        """For a while nothing works."""
        self.spoilt = self.was_spoilt = True
        for hand in handed:
            self.submit(hand)
        self.pass_time(WINDOW_S)
        while self.batcher.step(data.draw(st.sampled_from(self.alive))):
            self.a_failed_device_holds_nothing()
        self.spoilt = False

    @precondition(lambda self: self.alive and self.batcher.queued)
    @rule(data=st.data())
    def fail_device(self, data: st.DataObject) -> None:
        self.device_fails = True
        self.batcher.step(data.draw(st.sampled_from(self.alive)))
        self.device_fails = False

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.alive))
        self.dies = True
        try:
            self.batcher.step(number)
        except SystemExit:
            self.alive.remove(number)
            self.batcher._crew.end()
        self.dies = False

    @rule()
    def stop(self) -> None:
        self.stopped = True
        # As `stop` does it once the threads have started: what is queued drains.
        self.batcher._close(partial(Unavailable, "stopping"))

    @invariant()
    def a_failed_device_holds_nothing(self) -> None:
        if hasattr(self, "device"):
            assert bool(self.device.failure) == self.device_should_have_failed
            assert not (self.device.failure and self.batcher.queued)

    @invariant()
    def records_add_up(self) -> None:
        items = sum(len(handed.items) for handed in self.handed)
        done = sum(record.size + record.late + record.cancelled + record.refused for record in self.records)
        assert done + self.batcher.queued == items
        assert sum(record.size - record.failed for record in self.records) == self.answered.total()
        assert sum(record.size for record in self.records) == sum(len(handed.ran) for handed in self.handed)
        for record in self.records:
            assert record.failed <= record.size <= record.max_size
            assert record.slots >= record.size - record.failed
            assert record.calls <= 1 + 2 * record.bisections
            assert 0 <= record.mean_wait_s <= record.waited_s

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        self.stop()
        while self.alive and self.batcher.step(self.alive[0]):
            pass
        for _ in self.alive:
            self.batcher._crew.end()
        self.records_add_up()
        assert self.batcher.queued == 0
        for handed in self.handed:
            self.check(handed)

    def check(self, handed: Handed) -> None:
        assert handed.future is not None
        assert handed.resolved == 1
        if handed.future.cancelled():
            assert not handed.ran
            return
        error = handed.future.exception(0)
        if error is None:
            assert handed.future.result(0) == [item.number for item in handed.items]
            assert all(self.answered[item.number] == 1 for item in handed.items)
            return
        reasons: tuple[type[Exception], ...] = (Internal, Unavailable)
        reasons += (Refused,) * (self.was_spoilt or any(item.fate == "raises" for item in handed.items))
        reasons += (EngineOutOfMemory,) * any(item.fate == "too big" for item in handed.items)
        reasons += (DeadlineExceeded,) * (handed.deadline is not None)
        reasons += (Cancelled,) * handed.flagged
        assert isinstance(error, reasons)
        if isinstance(error, DeviceFailed):
            assert any(item.number in self.suspects for item in handed.items)


TestBatcher = BatcherMachine.TestCase
