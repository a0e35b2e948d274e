"""What the gateway measures, each metric declared once. Labels are bounded: routes are templates, not paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.errors import Unavailable
from producer.job import JobState, Lane
from producer.ledger import Ledger

#: Seconds; the long end is for long-polls.
LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"))


class PoolCollector(Collector):
    """Reads the pool's counts from the ledger at every scrape. Blocks: scrape in a thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> list[Metric]:
        """Nothing in advance: registering must not need Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            totals, backlog, workers = self._ledger.totals(), self._ledger.backlog(), self._ledger.workers()
        except Unavailable:
            yield GaugeMetricFamily("ocrpool_redis_up", "Whether Redis answers: 0 or 1.", value=0)
            return
        yield GaugeMetricFamily("ocrpool_redis_up", "Whether Redis answers: 0 or 1.", value=1)
        yield CounterMetricFamily(
            "ocrpool_jobs_accepted", "Jobs that were accepted.", value=totals.get("jobs_accepted", 0)
        )
        yield CounterMetricFamily(
            "ocrpool_dead_letters",
            "Pages and messages that were given up; `ocrpool dead list` shows the last.",
            value=totals.get("dead_letters", 0),
        )
        webhooks = CounterMetricFamily("ocrpool_webhooks", "Webhooks that came to an end.", labels=["state"])
        for end in ("delivered", "failed"):
            webhooks.add_metric([end], totals.get(f"webhooks_{end}", 0))
        yield webhooks
        yield GaugeMetricFamily("ocrpool_pending_webhooks", "Webhooks to be sent.", value=backlog["webhooks"])
        jobs = CounterMetricFamily("ocrpool_jobs", "Jobs that ended, by their final state.", labels=["state"])
        for state in JobState:
            if state.final:
                jobs.add_metric([state.value], totals.get(f"jobs_{state.value}", 0))
        yield jobs
        pages = CounterMetricFamily("ocrpool_pages", "Pages that ended, by their state.", labels=["state"])
        for outcome in ("succeeded", "failed"):
            pages.add_metric([outcome], totals.get(f"pages_{outcome}", 0))
        yield pages
        cache = CounterMetricFamily(
            "ocrpool_cache_documents",
            "Documents by what the cache had for them: hit, missed, joined one that was being read, or parted from it.",
            labels=["outcome"],
        )
        for outcome in ("hit", "missed", "joined", "parted"):
            cache.add_metric([outcome], totals.get(f"documents_{outcome}", 0))
        yield cache
        yield CounterMetricFamily(
            "ocrpool_cache_bytes", "Results that were given from the cache.", value=totals.get("cached_bytes", 0)
        )
        depth = GaugeMetricFamily("ocrpool_queue_depth", "Messages that wait in a lane's queue.", labels=["lane"])
        for lane in Lane:
            depth.add_metric([lane.value], backlog[f"queue_{lane.value}"])
        yield depth
        unfinished = GaugeMetricFamily("ocrpool_unfinished_jobs", "Jobs that have not ended.", labels=["state"])
        unfinished.add_metric([JobState.QUEUED.value], backlog["unfinished"] - backlog["running"])
        unfinished.add_metric([JobState.RUNNING.value], backlog["running"])
        yield unfinished
        waiting = GaugeMetricFamily("ocrpool_waiting_units", "Units that no worker holds.", labels=["lane"])
        for lane in Lane:
            waiting.add_metric([lane.value], backlog[f"waiting_{lane.value}"])
        yield waiting
        yield GaugeMetricFamily("ocrpool_leased_units", "Units that a worker holds.", value=backlog["leased"])
        yield GaugeMetricFamily("ocrpool_workers", "Workers that are ready.", value=len(workers))


class Metrics:
    """The registry of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ocrpool_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.latency = Histogram(
            "ocrpool_http_request_duration_seconds",
            "Time to a request's whole answer, a long-poll's wait included.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.event_streams = Gauge("ocrpool_http_event_streams", "Open event streams.", registry=self.registry)
        self.long_polls = Gauge("ocrpool_http_long_polls", "Requests that wait for a job.", registry=self.registry)

    def watch_pool(self, ledger: Ledger) -> None:
        self.registry.register(PoolCollector(ledger))

    def text(self) -> bytes:
        """The Prometheus exposition. Blocks: call it in a thread."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts and times requests by route template."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        began = self._clock()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The router leaves the matched route in the scope.
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.latency.labels(method, route).observe(self._clock() - began)
