"""Metrics of requests that pool, by endpoint. vLLM has none; its metrics of all requests are those of the engines."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ID_PREFIXES = {  # endpoint → the beginning of its replies' ids
    "embeddings": "embd-",
    "pooling": "pool-",
    "classify": "classify-",
    "score": "score-",
    "rerank": "rerank-",
}


class PoolingMetrics(Collector):
    """Counts of pooled requests, of their texts and tokens, and their times.

    Every series exists from the start, with the value 0.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._registry = registry = CollectorRegistry()
        labels = ("model_name", "endpoint")
        self._requests = Counter("jaxserve_pooling_requests", "Requests pooled.", labels, registry=registry)
        self._texts = Counter("jaxserve_pooling_texts", "Texts and pairs pooled.", labels, registry=registry)
        self._tokens = Counter("jaxserve_pooling_tokens", "Tokens of pooled texts.", labels, registry=registry)
        name, help = "jaxserve_pooling_request_seconds", "Admission to the last pooled text."
        self._seconds = Histogram(name, help, labels, buckets=BUCKETS_S, registry=registry)
        for endpoint in ID_PREFIXES:
            for metric in (self._requests, self._texts, self._tokens, self._seconds):
                metric.labels(model_name, endpoint)

    def observe(self, endpoint: str, *, num_texts: int, num_tokens: int, seconds: float) -> None:
        """Add a request whose texts are all pooled. endpoint: one of ID_PREFIXES."""
        labels = (self._model_name, endpoint)
        self._requests.labels(*labels).inc()
        self._texts.labels(*labels).inc(num_texts)
        self._tokens.labels(*labels).inc(num_tokens)
        self._seconds.labels(*labels).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus_client asks for them at each scrape."""
        yield from self._registry.collect()
