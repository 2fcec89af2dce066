"""The metrics of /metrics: the engine's under vLLM's names, further ones under jaxserve_, and those of HTTP requests.

Nothing is counted twice: engine numbers are read from one StatsSnapshot at each scrape. Every series exists from the
start, with the value 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from jaxserve import HistogramSnapshot, StatsSnapshot

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

UNCOUNTED_PATHS = frozenset({"/metrics", "/health", "/load", "/ping", "/live", "/version"})
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
OUTCOMES = {"stop": "ok", "length": "ok", "repetition": "ok", "abort": "aborted", "error": "error"}
REJECTION_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")

FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
COARSE_BUCKETS_S, FINE_BUCKETS_S = (0.1, 0.5, 1.0), (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTEXT_BUCKETS = None  # stands for 1, 2, 5, 10 ... up to max_model_len

COUNTERS = {
    "prefix_cache_queries": "Tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Tokens found in the prefix cache.",
    "external_prefix_cache_queries": "Tokens looked up in an external prefix cache.",
    "external_prefix_cache_hits": "Tokens found in an external prefix cache.",
    "mm_cache_queries": "Items looked up in the multimodal cache.",
    "mm_cache_hits": "Items found in the multimodal cache.",
    "num_preemptions": "Requests that lost their pages and were computed again.",
    "prompt_tokens": "Prompt tokens prefilled.",
    "prompt_tokens_cached": "Prompt tokens taken from the prefix cache.",
    "generation_tokens": "Tokens generated.",
}
PROMPT_TOKEN_SOURCES = {
    "local_compute": "prompt_tokens_local_compute",
    "local_cache_hit": "prompt_tokens_local_cache_hit",
    "external_kv_transfer": "prompt_tokens_external",
}
OWN_COUNTERS = {
    "engine_steps": ("engine_steps", "Steps of the engine."),
    "compilations": ("compilations", "Programs compiled."),
    "compilation_seconds": ("compilation_seconds", "Seconds spent compiling, reading cached programs included."),
    "compilation_cache_hits": ("compilation_cache_hits", "Programs found in the persistent cache."),
    "helper_restarts": ("helper_restarts", "Worker processes killed and replaced, mostly those of clients' templates."),
    "nonfinite_logits": ("nonfinite_logits", "Rows that ended because their logits were not finite."),
    "grammar_masked_tokens": ("grammar_masked_tokens", "Tokens sampled under a grammar's mask."),
    "step_bytes": ("step_bytes", "Bytes that the steps had to read: weights, and live keys and values."),
    "step_flops": ("step_flops", "Floating-point operations of the steps."),
    "step_device_seconds": ("step_device_seconds", "Seconds that the device was computing."),
    "step_roofline_seconds": (
        "step_roofline_seconds",
        "Least seconds of the steps by the roofline of this machine.",
    ),
}
GAUGES = {
    "event_loop_lag_seconds": "How late the event loop was at worst since the last scrape.",
    "open_connections": "Connections that are open.",
}
HISTOGRAMS: dict[str, tuple[tuple[float, ...] | None, str]] = {
    "time_to_first_token_seconds": (FIRST_TOKEN_BUCKETS_S, "Arrival to first token."),
    "inter_token_latency_seconds": (TOKEN_BUCKETS_S, "Time between two tokens."),
    "request_time_per_output_token_seconds": (TOKEN_BUCKETS_S, "Decode time by token, one sample a request."),
    "e2e_request_latency_seconds": (REQUEST_BUCKETS_S, "Arrival to last token."),
    "request_queue_time_seconds": (REQUEST_BUCKETS_S, "Queued to first scheduled."),
    "request_inference_time_seconds": (REQUEST_BUCKETS_S, "Scheduled to last token."),
    "request_prefill_time_seconds": (REQUEST_BUCKETS_S, "Scheduled to first token."),
    "request_decode_time_seconds": (REQUEST_BUCKETS_S, "First to last token."),
    "request_prompt_tokens": (CONTEXT_BUCKETS, "Prompt tokens of a request."),
    "request_generation_tokens": (CONTEXT_BUCKETS, "Generated tokens of a request."),
    "request_max_num_generation_tokens": (CONTEXT_BUCKETS, "Generated tokens of a request's longest choice."),
    "request_params_max_tokens": (CONTEXT_BUCKETS, "The max_tokens of a request."),
    "request_prefill_kv_computed_tokens": (CONTEXT_BUCKETS, "Prompt tokens computed, cached ones left out."),
    "iteration_tokens_total": (STEP_TOKEN_BUCKETS, "Tokens computed by one step."),
    "request_params_n": ((1, 2, 5, 10, 20), "The n of a request."),
    "request_num_preemptions": ((1, 2, 3, 4, 5, 10, 20), "Preemptions of a request."),
}


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
        self._registry.register(EngineCollector(llm, model_name, server_values))
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self) -> tuple[bytes, str]:
        """Return the body and its content type: Prometheus text 0.0.4, whatever the client accepts.

        In OpenMetrics prometheus_client replaces the colon of vLLM's names by an underscore, and Prometheus 2 asks for
        that format: dashboards for vLLM would find no series. Every Prometheus reads the text format, which keeps them.
        """
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class EngineCollector(Collector):
    """The collector of the engine's metrics at the moment of the scrape.

    server_values: functions that return values of the server, by name: "rejected", the requests that were refused
    before they reached the engine, and each of GAUGES.
    """

    def __init__(self, llm: AsyncLLM, model_name: str, server_values: Mapping[str, Callable[[], float]]) -> None:
        self._llm = llm
        self._labels = {"model_name": model_name, "engine": "0"}
        self._server_values = server_values

    def describe(self) -> list[Metric]:
        """Return no metrics, so that registering takes no snapshot of the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, all of one snapshot of the engine."""
        stats = self._llm.stats()
        yield from self._collect_gauges(stats)
        yield from self._collect_counters(stats)
        yield from self._collect_histograms(stats.histograms)
        yield from self._collect_own(stats)

    def _collect_gauges(self, stats: StatsSnapshot) -> Iterator[Metric]:
        waiting = stats.num_requests_waiting
        usage = stats.pages_active / stats.pages_total if stats.pages_total else 0.0
        yield self._make_gauge(
            "vllm:num_requests_running", "Requests in the running batch.", stats.num_requests_running
        )
        yield self._make_gauge("vllm:num_requests_waiting", "Requests queued.", waiting)
        reasons = {"capacity": waiting, "deferred": 0}
        yield self._make_labelled_gauge(
            "vllm:num_requests_waiting_by_reason", "Requests queued, by reason.", "reason", reasons
        )
        yield self._make_gauge("vllm:kv_cache_usage_perc", "Share of pages held by running requests; 1 is full.", usage)
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        yield self._make_labelled_gauge("vllm:engine_sleep_state", "Whether the engine sleeps.", "sleep_state", states)
        yield self._make_info(
            "vllm:cache_config_info", "Settings of the key-value cache.", get_cache_settings(self._llm)
        )
        yield self._make_info(
            "jaxserve_parallel_config_info", "Devices of the replicas.", get_parallel_settings(self._llm)
        )

    def _make_info(self, name: str, help: str, settings: Mapping[str, str]) -> Metric:
        info = {**self._labels, **settings}
        family = GaugeMetricFamily(name, help, labels=list(info))
        family.add_metric(list(info.values()), 1)
        return family

    def _collect_counters(self, stats: StatsSnapshot) -> Iterator[Metric]:
        for name, help in COUNTERS.items():
            yield self._make_counter(f"vllm:{name}", help, stats.counters.get(name, 0))
        sources = {source: stats.counters.get(name, 0) for source, name in PROMPT_TOKEN_SOURCES.items()}
        yield self._make_labelled_counter(
            "vllm:prompt_tokens_by_source", "Prompt tokens, by where they came from.", "source", sources
        )
        ends = {reason: stats.finished.get(reason, 0) for reason in FINISH_REASONS}
        yield self._make_labelled_counter("vllm:request_success", "Requests that ended.", "finished_reason", ends)
        family = CounterMetricFamily("vllm:admission_rejections", "Requests refused.", labels=["model_name", "reason"])
        for reason, count in self._count_rejections(stats).items():
            family.add_metric([self._labels["model_name"], reason], count)
        yield family

    def _collect_histograms(self, snapshots: Mapping[str, HistogramSnapshot]) -> Iterator[Metric]:
        for name, (bounds, help) in HISTOGRAMS.items():
            if bounds is None:
                bounds = log_buckets(self._llm.config.max_model_len or 1)
            empty = HistogramSnapshot(bounds, (0,) * (len(bounds) + 1), 0.0)
            yield self._make_histogram(f"vllm:{name}", help, snapshots.get(name, empty))

    def _collect_own(self, stats: StatsSnapshot) -> Iterator[Metric]:
        pages = {
            "total": stats.pages_total,
            "free": stats.pages_free,
            "active": stats.pages_active,
            "cached": stats.pages_cached,
        }
        yield self._make_labelled_gauge("jaxserve_kv_pages", "Pages of the key-value cache.", "state", pages)
        states = {
            "running": stats.num_requests_running,
            "waiting": stats.num_requests_waiting,
            "preempted": stats.num_requests_preempted,
        }
        yield self._make_labelled_gauge("jaxserve_requests", "Requests inside the engine.", "state", states)
        yield self._make_outcomes(stats)
        for name, (metric, help) in OWN_COUNTERS.items():
            yield self._make_counter(f"jaxserve_{metric}", help, stats.counters.get(name, 0))
        device_s, roofline_s = (stats.counters.get(f"step_{name}_seconds", 0) for name in ("device", "roofline"))
        help = "Roofline seconds divided by device seconds since the start; for the present, divide the rates of both."
        yield self._make_gauge("jaxserve_step_utilization", help, roofline_s / device_s if device_s else 0.0)
        for name, help in GAUGES.items():
            yield self._make_gauge(f"jaxserve_{name}", help, self._server_values[name]())
        for name in sorted(stats.histograms.keys() - HISTOGRAMS.keys()):
            yield self._make_histogram(f"jaxserve_{name}", name.replace("_", " ") + ".", stats.histograms[name])

    def _make_outcomes(self, stats: StatsSnapshot) -> Metric:
        labels = [*self._labels, "outcome", "reason"]
        family = CounterMetricFamily("jaxserve_requests", "Requests that ended, by outcome.", labels=labels)
        counts = {(OUTCOMES[reason], reason): stats.finished.get(reason, 0) for reason in OUTCOMES}
        counts |= {("rejected", reason): count for reason, count in self._count_rejections(stats).items()}
        for outcome_and_reason, count in counts.items():
            family.add_metric([*self._labels.values(), *outcome_and_reason], count)
        return family

    def _count_rejections(self, stats: StatsSnapshot) -> dict[str, float]:
        counts: dict[str, float] = {reason: stats.rejected.get(reason, 0) for reason in REJECTION_REASONS}
        counts["max_num_queued_reqs"] += self._server_values["rejected"]()
        return counts

    def _make_gauge(self, name: str, help: str, value: float) -> Metric:
        return self._fill(GaugeMetricFamily(name, help, labels=list(self._labels)), {None: value})

    def _make_labelled_gauge(self, name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._fill(GaugeMetricFamily(name, help, labels=[*self._labels, label]), values)

    def _make_counter(self, name: str, help: str, value: float) -> Metric:
        return self._fill(CounterMetricFamily(name, help, labels=list(self._labels)), {None: value})

    def _make_labelled_counter(self, name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._fill(CounterMetricFamily(name, help, labels=[*self._labels, label]), values)

    def _fill(
        self, family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float] | Mapping[None, float]
    ) -> Metric:
        for label, value in values.items():
            family.add_metric([*self._labels.values(), *([] if label is None else [label])], value)
        return family

    def _make_histogram(self, name: str, help: str, snapshot: HistogramSnapshot) -> Metric:
        """Make a histogram; its buckets are cumulative, as Prometheus has them."""
        family = HistogramMetricFamily(name, help, labels=list(self._labels))
        bounds = [*(str(float(bound)) for bound in snapshot.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(snapshot.counts), strict=True))
        family.add_metric(list(self._labels.values()), buckets, snapshot.sum)
        return family


def get_cache_settings(llm: AsyncLLM) -> dict[str, str]:
    """Return the settings of the key-value cache as text; gateways read block_size and num_gpu_blocks.

    kv_cache_size_tokens counts the pages that sequences may hold (page 0 is for padding), and kv_cache_max_concurrency
    how many sequences of the longest length these are.
    """
    config = llm.config
    tokens = (llm.num_pages - 1) * config.block_size
    return {
        "block_size": str(config.block_size),
        "num_gpu_blocks": str(llm.num_pages),
        "enable_prefix_caching": str(config.enable_prefix_caching),
        "gpu_memory_utilization": str(config.gpu_memory_utilization),
        "cache_dtype": llm.description.get("cache_dtype", llm.description.get("dtype", config.dtype)),
        "kv_cache_memory_bytes": str(config.kv_cache_memory_bytes),
        "num_gpu_blocks_override": str(config.num_gpu_blocks_override),
        "kv_cache_size_tokens": str(tokens),
        "kv_cache_max_concurrency": str(tokens / (config.max_model_len or 1)),
    }


def get_parallel_settings(llm: AsyncLLM) -> dict[str, str]:
    """Return how many devices there are and how the model is divided among them, as text."""
    config = llm.config
    return {
        "tensor_parallel_size": str(config.tensor_parallel_size),
        "data_parallel_size": str(config.data_parallel_size),
        "enable_expert_parallel": str(config.enable_expert_parallel),
        "device": llm.description.get("device", ""),
    }


def log_buckets(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50 ... up to `largest`, the bounds of a histogram."""
    bounds, decade = [], 1
    while decade <= largest:
        bounds += [step * decade for step in (1, 2, 5) if step * decade <= largest]
        decade *= 10
    return tuple(bounds)
