"""Sending webhooks: signed as Standard Webhooks says, tried again on a schedule, never in the way of the pages.

They are sent by the gateways and not by the workers: those have no time to spare beside their card, and often no way
out of their network.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus

import structlog
from standardwebhooks import Webhook

from producer.errors import Internal, OcrpoolError, Unavailable
from producer.fetching import Answer, Fetcher
from producer.ledger import Ledger
from producer.outbox import TIMEOUT_S, Delivery, DeliveryState, Outbox, Standing, Taken, Verdict
from producer.retry_after import retry_after_s
from producer.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds before each try; after the last one the webhook is given up.
SCHEDULE_S = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
#: Up to this part of a pause is added to it, so that webhooks that failed together do not come back together.
JITTER = 0.2
#: Longest pause that an endpoint's `Retry-After` brings about.
LONGEST_RETRY_AFTER_S = 24 * 3600
#: A try that takes longer makes its origin a slow one.
SLOW_S = 5.0
#: The outbox is looked at this often while nothing is due.
POLL_S = 0.5
#: Of the deliveries under way, one in so many may be to one origin.
SHARE = 16
#: Part of them that may be to origins of that standing: whoever takes long leaves room for those that do not.
PARTS = {Standing.GOOD: 1.0, Standing.UNKNOWN: 0.5, Standing.SLOW: 0.25}
#: Part of those that may be one tenant's, so that some are left for others.
TENANT_PART = 0.5


def signed(event_id: str, body: str, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each secret."""
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, now, body) for secret in secrets),
    }


def judge(
    delivery: Delivery, answer: Answer | OcrpoolError, took_s: float, *, now: datetime, chance: Callable[[], float]
) -> Verdict:
    """What follows from an endpoint's answer, or from its failure to answer. `chance()` is in [0, 1)."""
    slow = took_s > SLOW_S
    if isinstance(answer, Answer):
        outcome = _told(answer.status)
        if 200 <= answer.status < 300:
            return Verdict(DeliveryState.DELIVERED, outcome, slow=slow)
        if answer.status == HTTPStatus.GONE:
            return Verdict(DeliveryState.DEAD, outcome, slow=slow, disabled=True)
        asked_s = min(retry_after_s(answer.headers.get("retry-after", ""), now), LONGEST_RETRY_AFTER_S)
    else:
        outcome, asked_s = str(answer), 0
    tries = delivery.attempts + 1
    if tries >= len(SCHEDULE_S):
        return Verdict(DeliveryState.DEAD, outcome, slow=slow)
    delay_s = max(SCHEDULE_S[tries] * (1 + JITTER * chance()), asked_s)
    return Verdict(DeliveryState.PENDING, outcome, delay_s=delay_s, slow=slow)


def _told(status: int) -> str:
    try:
        return f"The endpoint answered {status} {HTTPStatus(status).phrase}."
    except ValueError:
        return f"The endpoint answered {status}."


class UnderWay:
    """The deliveries under way, and who has as many of them as it may. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._sending: Counter[str] = Counter()

    def begin(self, taken: Taken) -> None:
        with self._lock:
            self._sending.update(self._names(taken))

    def end(self, taken: Taken) -> None:
        with self._lock:
            self._sending.subtract(self._names(taken))
            self._sending += Counter()  # Those at 0 go.

    def full(self) -> list[str]:
        """The origins, standings and rows that get no more now."""
        with self._lock:
            return [name for name, sending in self._sending.items() if sending >= self._most_of(name)]

    @staticmethod
    def _names(taken: Taken) -> tuple[str, ...]:
        return taken.origin, taken.standing.value, taken.row

    def _most_of(self, name: str) -> int:
        standing, of_tenant, _ = name.partition(":")
        if standing not in PARTS:
            return max(1, self._most // SHARE)
        return max(1, int(self._most * PARTS[Standing(standing)] * (TENANT_PART if of_tenant else 1)))


class Deliverer:
    """Sends what is due in the outbox, `webhook_deliveries` at a time."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        fetcher: Fetcher | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._outbox = Outbox(ledger)
        self._fetcher = fetcher or Fetcher(settings)
        self._clock = clock
        self._chance = chance
        self._stopping = threading.Event()
        #: Set when one has been sent: its origin may be busy no more.
        self._free = threading.Event()
        most = max(1, settings.webhook_deliveries)
        self._slots = threading.BoundedSemaphore(most)
        self._senders = ThreadPoolExecutor(most, thread_name_prefix="webhook")
        self._under_way = UnderWay(most)
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more. Returns at once; `join` waits for what is under way, up to `TIMEOUT_S`."""
        self._stopping.set()
        self._free.set()

    def join(self) -> None:
        self._thread.join()
        self._senders.shutdown()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._slots.acquire(timeout=POLL_S):
                continue
            self._free.clear()
            if not self._send_next():
                self._slots.release()
                self._free.wait(POLL_S)

    def _send_next(self) -> bool:
        """Begin to send one; False if none is due. The caller has a slot for it."""
        try:
            taken = self._outbox.take(self._under_way.full(), self._chance())
        except Unavailable as error:
            log.warning("webhooks.not_taken", error=str(error))
            return False
        except Exception:
            log.exception("webhooks.not_taken")
            return False
        if taken is None:
            return False
        self._under_way.begin(taken)
        self._senders.submit(self._send_and_free, taken)
        return True

    def _send_and_free(self, taken: Taken) -> None:
        job_id = taken.delivery.job_id
        try:
            self.send(taken)
        except Unavailable as error:
            # It comes up again once its lease is over.
            log.warning("webhook.not_settled", job=job_id, error=str(error))
        except Exception:
            log.exception("webhook.not_settled", job=job_id)
        finally:
            self._under_way.end(taken)
            self._slots.release()
            self._free.set()

    def send(self, taken: Taken) -> Verdict:
        """Try once, and write how it went. Raises `Unavailable` when that cannot be written."""
        delivery, began = taken.delivery, time.monotonic()
        try:
            verdict = self._judged(delivery, self._answer(delivery), began)
        except Exception:
            # A try like others: one that was not settled would come up again for ever, at the end of each lease.
            log.exception("webhook.not_sent", job=delivery.job_id)
            verdict = self._judged(delivery, Internal("The webhook could not be sent."), began)
        self._outbox.settle(taken, verdict)
        log.info("webhook.tried", job=delivery.job_id, state=verdict.state.value, outcome=verdict.outcome)
        return verdict

    def _answer(self, delivery: Delivery) -> Answer | OcrpoolError:
        body = json.dumps(delivery.event(self._settings.public_url), ensure_ascii=False, separators=(",", ":"))
        try:
            headers = signed(delivery.id, body, self._settings.webhook_secrets, self._clock())
            return self._fetcher.post(delivery.url, headers, body.encode(), timeout_s=TIMEOUT_S)
        except OcrpoolError as error:
            return error

    def _judged(self, delivery: Delivery, answer: Answer | OcrpoolError, began: float) -> Verdict:
        return judge(delivery, answer, time.monotonic() - began, now=self._clock(), chance=self._chance)


@contextmanager
def delivering(settings: Settings, ledger: Ledger) -> Iterator[None]:
    """Send webhooks meanwhile, where there are secrets to sign them with."""
    if not settings.webhook_secrets or not settings.webhook_deliveries:
        yield
        return
    deliverer = Deliverer(settings, ledger)
    deliverer.start()
    try:
        yield
    finally:
        deliverer.stop()
        deliverer.join()
