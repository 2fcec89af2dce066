"""The metrics of the engines: under vLLM's names, and further ones under jaxserve_.

Engine numbers are read from one StatsSnapshot of each engine at each scrape. Every series exists from the start, with
the value 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from jaxserve import HistogramSnapshot, StatsSnapshot
from server.replies import now_s

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, DeviceMemory

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
OUTCOMES = {"stop": "ok", "length": "ok", "repetition": "ok", "abort": "aborted", "error": "error"}
REJECTION_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")

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
    "worker_restarts": ("helper_restarts", "Worker processes killed and replaced, mostly those of clients' templates."),
    "engine_rebuilds": ("engine_rebuilds", "Rebuilds of the device state after a step that failed."),
    "request_faults": ("request_faults", "Requests that ended because their own work on the host failed."),
    "snapshots_taken": ("snapshots_taken", "Copies made of recurrent states, for the prefix cache."),
    "snapshots_restored": ("snapshots_restored", "Requests that began with a copy of a recurrent state."),
    "snapshots_evicted": ("snapshots_evicted", "Copies of recurrent states that the prefix cache has evicted."),
    "snapshots_offloaded": ("snapshots_offloaded", "Copies of recurrent states that were moved to host memory."),
    "snapshots_reloaded": ("snapshots_reloaded", "Requests that began with a copy from host memory."),
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
DEVICE_MEMORY = {
    "used_bytes": "Memory of a device that is in use; nothing of CPUs.",
    "peak_bytes": "The most memory of a device that was in use.",
    "limit_bytes": "Memory of a device that may be used.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "Arrival to first token.",
    "inter_token_latency_seconds": "Time between two tokens.",
    "request_time_per_output_token_seconds": "Decode time by token, one sample a request.",
    "e2e_request_latency_seconds": "Arrival to last token.",
    "request_queue_time_seconds": "Queued to first scheduled.",
    "request_inference_time_seconds": "Scheduled to last token.",
    "request_prefill_time_seconds": "Scheduled to first token.",
    "request_decode_time_seconds": "First to last token.",
    "request_prompt_tokens": "Prompt tokens of a request.",
    "request_generation_tokens": "Generated tokens of a request.",
    "request_max_num_generation_tokens": "Generated tokens of a request's longest choice.",
    "request_params_max_tokens": "The max_tokens of a request.",
    "request_prefill_kv_computed_tokens": "Prompt tokens computed, cached ones left out.",
    "iteration_tokens_total": "Tokens computed by one step.",
    "request_params_n": "The n of a request.",
    "request_num_preemptions": "Preemptions of a request.",
}

Engines = Sequence[StatsSnapshot]  # one for each replica
FamilyType = type[GaugeMetricFamily] | type[CounterMetricFamily]


class EngineCollector(Collector):
    """The collector of the metrics of all engines at the moment of the scrape. The label `engine` is the replica.

    What belongs to the whole process is counted for engine 0. server_values: functions that return the values of
    GAUGES, by name.

    device_memory: that of the devices of each replica, set before a scrape, because it is not read on the event loop.
    """

    def __init__(self, llm: AsyncLLM, model_name: str, server_values: Mapping[str, Callable[[], float]]) -> None:
        self._llm = llm
        self._model_name = model_name
        self._server_values = server_values
        self.device_memory: Sequence[Sequence[DeviceMemory]] = ()

    def describe(self) -> list[Metric]:
        """Return no metrics, so that registering takes no snapshot of the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, all of one snapshot of each engine."""
        engines = self._llm.replica_stats()
        yield from self._collect_gauges(engines)
        yield from self._collect_counters(engines)
        yield from self._collect_histograms(engines)
        yield from self._collect_own(engines)
        yield from self._collect_device_memory()

    def _collect_gauges(self, engines: Engines) -> Iterator[Metric]:
        running = [stats.num_requests_running for stats in engines]
        waiting = [stats.num_requests_waiting for stats in engines]
        yield self._make(GaugeMetricFamily, "vllm:num_requests_running", "Requests in the running batch.", running)
        yield self._make(GaugeMetricFamily, "vllm:num_requests_waiting", "Requests queued.", waiting)
        name, help = "vllm:num_requests_waiting_by_reason", "Requests queued, by reason."
        reasons = [{"capacity": count, "deferred": 0} for count in waiting]
        yield self._make_labelled(GaugeMetricFamily, name, help, "reason", reasons)
        usage = [stats.kv_cache_usage for stats in engines]
        help = "Share of pages held by running requests; 1 is full."
        yield self._make(GaugeMetricFamily, "vllm:kv_cache_usage_perc", help, usage)
        states = [{"awake": 1, "weights_offloaded": 0, "discard_all": 0}] * len(engines)
        name, help = "vllm:engine_sleep_state", "Whether the engine sleeps."
        yield self._make_labelled(GaugeMetricFamily, name, help, "sleep_state", states)
        settings = get_cache_settings(self._llm)
        yield self._make_info("vllm:cache_config_info", "Settings of the key-value cache.", settings, len(engines))
        settings = get_parallel_settings(self._llm)
        yield self._make_info("jaxserve_parallel_config_info", "Devices of the replicas.", settings, len(engines))
        if self._llm.config.has_adapters:
            yield self._make_adapters(engines)

    def _make_adapters(self, engines: Engines) -> Metric:
        """Make vLLM's gauge of adapters, whose labels change and whose value is the time."""
        names = ["max_lora", "waiting_lora_adapters", "running_lora_adapters"]
        family = GaugeMetricFamily("vllm:lora_requests_info", "Adapters of requests; the Unix time.", labels=names)
        waiting, running = (
            ",".join(sorted({name for stats in engines for name in adapters(stats)}))
            for adapters in (lambda stats: stats.waiting_adapters, lambda stats: stats.running_adapters)
        )
        family.add_metric([str(self._llm.config.max_loras), waiting, running], now_s())
        return family

    def _make_info(self, name: str, help: str, settings: Mapping[str, str], num_engines: int) -> Metric:
        """Make a family whose labels are the settings that all engines share."""
        family = GaugeMetricFamily(name, help, labels=[*self._labels(0), *settings])
        for rank in range(num_engines):
            family.add_metric([*self._labels(rank).values(), *settings.values()], 1)
        return family

    def _collect_counters(self, engines: Engines) -> Iterator[Metric]:
        for name, help in COUNTERS.items():
            yield self._make(CounterMetricFamily, f"vllm:{name}", help, _count(engines, name))
        sources = [
            {source: stats.counters.get(name, 0) for source, name in PROMPT_TOKEN_SOURCES.items()} for stats in engines
        ]
        name, help = "vllm:prompt_tokens_by_source", "Prompt tokens, by where they came from."
        yield self._make_labelled(CounterMetricFamily, name, help, "source", sources)
        ends = [{reason: stats.finished.get(reason, 0) for reason in FINISH_REASONS} for stats in engines]
        name, help = "vllm:request_success", "Requests that ended."
        yield self._make_labelled(CounterMetricFamily, name, help, "finished_reason", ends)
        family = CounterMetricFamily("vllm:admission_rejections", "Requests refused.", labels=["model_name", "reason"])
        for reason in REJECTION_REASONS:
            family.add_metric([self._model_name, reason], engines[0].rejected.get(reason, 0))
        yield family

    def _collect_histograms(self, engines: Engines) -> Iterator[Metric]:
        for name, help in HISTOGRAMS.items():
            yield self._make_histogram(f"vllm:{name}", help, [stats.histograms[name] for stats in engines])

    def _collect_own(self, engines: Engines) -> Iterator[Metric]:
        yield self._make_pages(engines)
        yield self._make_served_tokens(engines)
        states = [
            {
                "running": stats.num_requests_running,
                "waiting": stats.num_requests_waiting,
                "preempted": stats.num_requests_preempted,
            }
            for stats in engines
        ]
        help = "Requests inside the engine."
        yield self._make_labelled(GaugeMetricFamily, "jaxserve_requests", help, "state", states)
        yield self._make_outcomes(engines)
        entries = [stats.grammar_cache_entries for stats in engines]
        help = "Compiled grammars and refusals in the cache."
        yield self._make(GaugeMetricFamily, "jaxserve_grammar_cache_entries", help, entries)
        for name, (metric, help) in OWN_COUNTERS.items():
            yield self._make(CounterMetricFamily, f"jaxserve_{metric}", help, _count(engines, name))
        help = "Roofline seconds divided by device seconds since the start; for the present, divide the rates of both."
        yield self._make(GaugeMetricFamily, "jaxserve_step_utilization", help, [_utilization(one) for one in engines])
        for name, help in GAUGES.items():
            yield self._make(GaugeMetricFamily, f"jaxserve_{name}", help, [self._server_values[name]()])
        for name in sorted(engines[0].histograms.keys() - HISTOGRAMS.keys()):
            snapshots = [stats.histograms[name] for stats in engines]
            yield self._make_histogram(f"jaxserve_{name}", name.replace("_", " ") + ".", snapshots)

    def _collect_device_memory(self) -> Iterator[Metric]:
        for name, help in DEVICE_MEMORY.items():
            family = GaugeMetricFamily(f"jaxserve_device_memory_{name}", help, labels=[*self._labels(0), "device"])
            for rank, devices in enumerate(self.device_memory):
                for memory in devices:
                    family.add_metric([*self._labels(rank).values(), memory.device], getattr(memory, name))
            yield family

    def _make_pages(self, engines: Engines) -> Metric:
        labels = [*self._labels(0), "group", "state"]
        family = GaugeMetricFamily("jaxserve_kv_pages", "Pages of the key-value cache, by group.", labels=labels)
        for rank, stats in enumerate(engines):
            for group in stats.cache_groups:
                counts = {"total": group.pages_total, "free": group.pages_free}
                counts |= {"active": group.pages_active, "cached": group.pages_cached}
                for state, count in counts.items():
                    family.add_metric([*self._labels(rank).values(), group.name, state], count)
        return family

    def _make_served_tokens(self, engines: Engines) -> Metric:
        labels = [*self._labels(0), "group"]
        help = "Tokens that a group of layers could serve from the prefix cache; a hit needs every group."
        family = CounterMetricFamily("jaxserve_prefix_cache_served_tokens", help, labels=labels)
        for rank, stats in enumerate(engines):
            for group in stats.cache_groups:
                family.add_metric([*self._labels(rank).values(), group.name], group.tokens_served)
        return family

    def _make_outcomes(self, engines: Engines) -> Metric:
        labels = [*self._labels(0), "outcome", "reason"]
        family = CounterMetricFamily("jaxserve_requests", "Requests that ended, by outcome.", labels=labels)
        for rank, stats in enumerate(engines):
            counts = {(OUTCOMES[reason], reason): stats.finished.get(reason, 0) for reason in OUTCOMES}
            counts |= {("rejected", reason): stats.rejected.get(reason, 0) for reason in REJECTION_REASONS}
            for outcome_and_reason, count in counts.items():
                family.add_metric([*self._labels(rank).values(), *outcome_and_reason], count)
        return family

    def _labels(self, rank: int) -> dict[str, str]:
        return {"model_name": self._model_name, "engine": str(rank)}

    def _make(self, kind: FamilyType, name: str, help: str, values: Sequence[float]) -> Metric:
        """Make a family with one sample for each engine."""
        family = kind(name, help, labels=list(self._labels(0)))
        for rank, value in enumerate(values):
            family.add_metric(list(self._labels(rank).values()), value)
        return family

    def _make_labelled(
        self, kind: FamilyType, name: str, help: str, label: str, values: Sequence[Mapping[str, float]]
    ) -> Metric:
        """Make a family with one sample for each engine and value of a further label."""
        family = kind(name, help, labels=[*self._labels(0), label])
        for rank, by_label in enumerate(values):
            for text, value in by_label.items():
                family.add_metric([*self._labels(rank).values(), text], value)
        return family

    def _make_histogram(self, name: str, help: str, snapshots: Sequence[HistogramSnapshot]) -> Metric:
        """Make a histogram for each engine; its buckets are cumulative, as Prometheus has them."""
        family = HistogramMetricFamily(name, help, labels=list(self._labels(0)))
        for rank, snapshot in enumerate(snapshots):
            bounds = [*(str(float(bound)) for bound in snapshot.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(snapshot.counts), strict=True))
            family.add_metric(list(self._labels(rank).values()), buckets, snapshot.sum)
        return family


def _count(engines: Engines, name: str) -> list[float]:
    return [stats.counters.get(name, 0) for stats in engines]


def _utilization(stats: StatsSnapshot) -> float:
    device_s, roofline_s = (stats.counters.get(f"step_{name}_seconds", 0) for name in ("device", "roofline"))
    return roofline_s / device_s if device_s else 0.0


def get_cache_settings(llm: AsyncLLM) -> dict[str, str]:
    """Return the settings of the key-value cache as text; gateways read block_size and num_gpu_blocks.

    kv_cache_size_tokens counts the pages that sequences may hold (page 0 is for padding), and kv_cache_max_concurrency
    how many sequences of the longest length these are.
    """
    config = llm.config
    tokens = (llm.num_pages - 1) * config.page_size
    return {
        "block_size": str(config.page_size),
        "num_gpu_blocks": str(llm.num_pages),
        "enable_prefix_caching": str(config.enable_prefix_caching),
        "gpu_memory_utilization": str(config.gpu_memory_utilization),
        "cache_dtype": llm.description.get("cache dtype", llm.description.get("dtype", config.dtype)),
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
