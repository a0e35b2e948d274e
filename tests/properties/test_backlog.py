"""The rules of the batch window as a state machine: what leaves is of one bucket, in order, and no lane starves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker.backlog import BULK_SHARE, STARVED_WINDOWS, Backlog, Batch
from worker.groups import Group

WINDOW_S = 1.0
MAX_BATCH = {"narrow": 2, "wide": 1, "tall": 6}

buckets = st.sampled_from(sorted(MAX_BATCH))


@dataclass(frozen=True)
class Waiting:
    """A queued item, and how many batches each lane had led when it came."""

    number: int
    since: float
    bulk_led: int
    urgent_led: int


class BacklogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backlog: Backlog[str, int, int] = Backlog(MAX_BATCH.__getitem__, WINDOW_S)
        self.limits = dict(MAX_BATCH)
        self.now = 0.0
        self.items = 0
        self.seen: set[str] = set()
        self.queues: dict[tuple[str, bool], list[Waiting]] = defaultdict(list)
        self.bulk_led = self.urgent_led = self.in_a_row = 0

    @rule(of=st.lists(buckets, min_size=1, max_size=8), urgent=st.booleans())
    def add(self, of: list[str], urgent: bool) -> None:
        numbers = range(self.items, self.items + len(of))
        self.items += len(of)
        self.seen.update(of)
        self.backlog.add(Group(len(of), urgent=urgent), numbers, of, self.now)
        for number, bucket in zip(numbers, of, strict=True):
            waiting = Waiting(number, self.now, self.bulk_led, self.urgent_led)
            self.queues[bucket, urgent].append(waiting)

    @rule(seconds=st.sampled_from((0.0, 0.25, WINDOW_S, STARVED_WINDOWS * WINDOW_S)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(windows=st.sampled_from((0, 1, STARVED_WINDOWS)), times=st.sampled_from((1, 1, 3, 12)))
    def take(self, windows: int, times: int) -> None:
        window_s = windows * WINDOW_S
        for _ in range(times):
            may_leave, starving = self.may_leave(window_s), self.bulk_starves()
            assert self.backlog.may_leave(self.now, window_s) == may_leave
            batch = self.backlog.take(self.now, window_s)
            assert (batch is not None) == may_leave
            if batch is not None:
                self.check_shares(batch, starving)
                self.check_items(batch)

    @rule(bucket=buckets, failed=st.integers(1, 6))
    def run_out_of_memory(self, bucket: str, failed: int) -> None:
        if bucket in self.seen:
            self.backlog.shrink(bucket, failed)
            self.limits[bucket] = max(1, min(self.limits[bucket], failed // 2))

    @rule(bucket=buckets)
    def recover(self, bucket: str) -> None:
        if bucket in self.seen:
            for _ in range(500):
                self.backlog.recover(bucket)
            self.limits[bucket] = MAX_BATCH[bucket]

    @rule()
    def abandon(self) -> None:
        left = {item for _, _, item in self.backlog.take_all()}
        assert left == {waiting.number for queue in self.queues.values() for waiting in queue}
        self.queues.clear()
        self.in_a_row = 0

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.backlog.size == sum(map(len, self.queues.values()))
        ratios = [self.limits[bucket] / MAX_BATCH[bucket] for bucket in MAX_BATCH]
        assert self.backlog.ceiling_ratio == min(ratios)
        full = [bucket for bucket, limit in self.limits.items() if self.waiting(bucket) >= limit]
        assert self.backlog.full_batches(urgent=False) == len(full)
        assert self.backlog.has_urgent == any(queue for (_, urgent), queue in self.queues.items() if urgent)

    def may_leave(self, window_s: float) -> bool:
        heads = [queue[0].since for queue in self.queues.values() if queue]
        full = any(self.waiting(bucket) >= limit for bucket, limit in self.limits.items())
        return bool(heads) and (full or self.now - min(heads) >= window_s)

    def waiting(self, bucket: str) -> int:
        return sum(len(self.queues[bucket, urgent]) for urgent in (True, False))

    def bulk_starves(self) -> bool:
        heads = [queue[0].since for (_, urgent), queue in self.queues.items() if queue and not urgent]
        return bool(heads) and self.now - min(heads) >= STARVED_WINDOWS * WINDOW_S

    def check_shares(self, batch: Batch[str, int, int], starving: bool) -> None:
        """Starving bulk leads one batch of each share."""
        self.bulk_led += not batch.urgent
        self.urgent_led += batch.urgent
        self.in_a_row = self.in_a_row + 1 if batch.urgent and starving else 0
        assert self.in_a_row < BULK_SHARE

    def check_items(self, batch: Batch[str, int, int]) -> None:
        """As many as fit, of one bucket, the leading lane's first, each lane in order; nobody waited behind more bulk
        than is promised."""
        numbers = [item for _, _, item in batch.entries]
        assert len(numbers) == min(self.limits[batch.bucket], self.waiting(batch.bucket))
        expected: list[int] = []
        for urgent in (batch.urgent, not batch.urgent):
            queue = self.queues[batch.bucket, urgent]
            gone = queue[: len(numbers) - len(expected)]
            expected += [waiting.number for waiting in gone]
            del queue[: len(gone)]
            for waiting in gone if urgent else ():
                behind_bulk = self.bulk_led - waiting.bulk_led - (not batch.urgent)
                behind_own = self.urgent_led - waiting.urgent_led - batch.urgent
                assert behind_bulk <= 1 + behind_own // (BULK_SHARE - 1)
        assert numbers == expected


TestBacklog = BacklogMachine.TestCase
