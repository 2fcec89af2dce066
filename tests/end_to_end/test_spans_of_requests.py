"""A span of a real request has the phases that only the engine knows."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.app import get_state
from server.tracing import RequestTracer
from tests.server.api import Api

PHASES = {"e2e", "time_to_first_token", "time_in_queue"}
PHASES |= {"time_in_model_prefill", "time_in_model_decode", "time_in_model_inference"}


async def test_phases_are_within_the_whole(api: Api) -> None:
    exporter = InMemorySpanExporter()
    tracer = get_state(api.app).tracer = RequestTracer("served", exporter)
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 5, "n": 2, "temperature": 1.0, "stop": ["never"], "ignore_eos": True}
    assert (await api.complete(**body)).status == 200
    tracer.close()
    [span] = exporter.get_finished_spans()
    values = dict(span.attributes or {})
    prefix = "gen_ai.latency."
    phases = {name.removeprefix(prefix): values[name] for name in values if name.startswith(prefix)}
    assert phases.keys() == PHASES
    assert all(0 <= seconds <= phases["e2e"] for seconds in phases.values())
    assert phases["time_in_queue"] + phases["time_in_model_prefill"] <= phases["time_to_first_token"]
    assert values["gen_ai.usage.completion_tokens"] == 10
