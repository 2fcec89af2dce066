"""The metrics of /metrics: those of the engines, of HTTP requests and of the process. Nothing is counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector, Summary
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from server.engine_metrics import EngineCollector

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, DeviceMemory

UNCOUNTED_PATHS = frozenset({"/metrics", "/health", "/load", "/ping", "/live", "/version"})
COARSE_BUCKETS_S, FINE_BUCKETS_S = (0.1, 0.5, 1.0), (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class HttpMetrics(Collector):
    """Metrics of HTTP requests: one observation for each response, labelled by route pattern."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("handler", "method")
        name = "http_requests"
        self._requests = Counter(name, "Requests by status class.", (*labels, "status"), registry=registry)
        name = "http_request_duration_seconds"
        self._seconds = Histogram(name, "Time to the last byte.", labels, buckets=COARSE_BUCKETS_S, registry=registry)
        name = "http_request_duration_highr_seconds"
        self._fine_seconds = Histogram(name, "Time to the last byte.", buckets=FINE_BUCKETS_S, registry=registry)
        name = "http_request_size_bytes"
        self._request_bytes = Summary(name, "Content-Length of requests.", ("handler",), registry=registry)
        name = "http_response_size_bytes"
        self._response_bytes = Summary(name, "Bytes of response bodies.", ("handler",), registry=registry)

    def observe(
        self, handler: str, method: str, status: int, seconds: float, request_bytes: int, response_bytes: int
    ) -> None:
        """Add one response. handler: the route's pattern, never a raw URL; "none" if no route matched."""
        if handler in UNCOUNTED_PATHS:
            return
        self._requests.labels(handler, method, f"{status // 100}xx").inc()
        self._seconds.labels(handler, method).observe(seconds)
        self._fine_seconds.observe(seconds)
        self._request_bytes.labels(handler).observe(request_bytes)
        self._response_bytes.labels(handler).observe(response_bytes)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus_client asks for them at each scrape."""
        yield from self._registry.collect()


class EventLoopLag:
    """The largest delay of the event loop since it was last read."""

    INTERVAL_S = 0.1

    def __init__(self) -> None:
        self._max_lag_s = 0.0

    def read(self) -> float:
        """Return the largest delay in seconds, and start again from 0."""
        max_lag_s, self._max_lag_s = self._max_lag_s, 0.0
        return max_lag_s

    async def watch(self) -> None:
        """Measure the delay every INTERVAL_S, until the task is cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            before = clock()
            await asyncio.sleep(self.INTERVAL_S)
            self._max_lag_s = max(self._max_lag_s, clock() - before - self.INTERVAL_S)


class MetricsExposition:
    """All metrics of a server.

    collectors: further ones. server_values: see EngineCollector.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        model_name: str,
        collectors: Iterable[Collector],
        server_values: Mapping[str, Callable[[], float]],
    ) -> None:
        self._registry = CollectorRegistry()
        self._engines = EngineCollector(llm, model_name, server_values)
        self._registry.register(self._engines)
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, device_memory: Sequence[Sequence[DeviceMemory]]) -> tuple[bytes, str]:
        """Return the body and its content type: Prometheus text 0.0.4, whatever the client accepts.

        device_memory: that of the devices of each replica.

        In OpenMetrics prometheus_client replaces the colon of vLLM's names by an underscore, and Prometheus 2 asks for
        that format: dashboards for vLLM would find no series. Every Prometheus reads the text format, which keeps them.
        """
        self._engines.device_memory = device_memory
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
