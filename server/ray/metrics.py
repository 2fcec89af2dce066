"""The main metrics of an engine as metrics of Ray, which collects those of all replicas and tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxserve import StatsSnapshot

GAUGES: dict[str, tuple[str, Callable[[StatsSnapshot], float]]] = {
    "num_requests_running": ("Requests in the running batch.", lambda stats: stats.num_requests_running),
    "num_requests_waiting": ("Requests that wait for the batch.", lambda stats: stats.num_requests_waiting),
    "kv_cache_usage_perc": ("Share of the key-value cache in use, 0 to 1.", lambda stats: stats.kv_cache_usage),
}
COUNTERS = {
    "prompt_tokens": "Prompt tokens prefilled.",
    "prompt_tokens_cached": "Prompt tokens taken from the prefix cache.",
    "generation_tokens": "Tokens generated.",
    "num_preemptions": "Requests that lost their pages and were computed again.",
}


class RayMetrics:
    """Metrics of one replica, under the names of /metrics with jaxserve_ in front. Ray adds labels for the replica."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter, Gauge

        self._gauges = {name: Gauge(f"jaxserve_{name}", description=text) for name, (text, _) in GAUGES.items()}
        self._counters = {name: Counter(f"jaxserve_{name}", description=text) for name, text in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def publish(self, stats: StatsSnapshot) -> None:
        """Hand over the engine's metrics of this moment."""
        for name, (_, get) in GAUGES.items():
            self._gauges[name].set(get(stats))
        for name, counter in self._counters.items():
            if (more := stats.counters[name] - self._counted[name]) > 0:
                counter.inc(more)
                self._counted[name] = stats.counters[name]
