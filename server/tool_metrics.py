"""Counts how often answers were parsed for tool calls, under vLLM's metric name and labels."""

from collections.abc import Iterator
from itertools import product

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

MODES = ("streaming", "non_streaming")
OUTCOMES = ("tool_call", "no_tool_call")
CHAT, RESPONSES, OTHER = REQUEST_TYPES = ("chat_completions", "responses", "other")


class ToolMetrics(Collector):
    """A counter of parses: one for each choice of a whole reply, one for each delta of a stream.

    Every series exists from the start, with the value 0.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._counts: dict[tuple[str, str, str], int] = dict.fromkeys(product(MODES, OUTCOMES, REQUEST_TYPES), 0)

    def count(self, mode: str, *, has_call: bool, request_type: str = CHAT) -> None:
        """Count one parse. mode: one of MODES. has_call: it found a tool call. request_type: one of REQUEST_TYPES."""
        self._counts[mode, OUTCOMES[not has_call], request_type] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metric, as prometheus_client asks for it at each scrape."""
        name, help = "vllm:tool_call_parser_invocations", "Pieces of answers searched for tool calls."
        family = CounterMetricFamily(name, help, labels=("model_name", "mode", "outcome", "request_type"))
        for labels, count in self._counts.items():
            family.add_metric((self._model_name, *labels), count)
        yield family
