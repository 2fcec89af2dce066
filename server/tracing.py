"""One OpenTelemetry span for each request, with the names that vLLM gives, sent to a collector by OTLP over HTTP.

Only with --otlp-traces-endpoint is OpenTelemetry imported and anything recorded. A thread of its SDK sends the spans;
those that a collector does not take are dropped when its queue is full. The SDK's own variables apply, such as
OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER (https://opentelemetry.io/docs/specs/otel/configuration). Spans have numbers,
ids and names, never a text.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxserve import BadConfig, TextDelta
from server.config import ServerConfig
from server.errors import ApiError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from werkzeug.datastructures import Headers

    from jaxserve import OutputTimes, Ready

SPAN_NAME, SCOPE, SERVICE = "llm_request", "jaxserve", "jaxserve"  # vLLM's span has this name, too
PARENT_HEADER, STATE_HEADER = "traceparent", "tracestate"  # https://www.w3.org/TR/trace-context
MAX_PARENT_CHARS, MAX_STATE_CHARS, MAX_STATE_MEMBERS = 512, 8192, 32
_STATE_MEMBER = re.compile(
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
CLOSE_S = 2.0  # for spans that have not been sent when the server ends
NANOSECONDS = 1_000_000_000


class RequestTracer:
    """The spans of a server's requests. They are sent by a thread, `close` ends it."""

    def __init__(self, model: str, exporter: SpanExporter) -> None:
        """model: the name under which the model is served."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SCOPE)
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    @classmethod
    def from_config(cls, config: ServerConfig, model: str) -> RequestTracer | None:
        """Return what traces requests as the settings ask for; None if they do not. Raises as `check_tracing`."""
        if config.otlp_traces_endpoint is None:
            return None
        check_tracing(config)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return cls(model, OTLPSpanExporter(endpoint=config.otlp_traces_endpoint))

    def begin(self, headers: Headers) -> RequestTrace:
        """Begin the trace of a request that arrives now. headers: those of HTTP, which may name a parent."""
        return RequestTrace(self, _read_parent(headers))

    def record(
        self,
        parent: Mapping[str, str],
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Any],
        error: ApiError | None,
    ) -> None:
        """Record a span, for the thread to send. parent: the headers that name its parent. start_ns: Unix time."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            SPAN_NAME,
            self._propagator.extract(parent),
            SpanKind.SERVER,
            {"gen_ai.response.model": self._model, **attributes},
            start_time=start_ns,
        )
        if error is not None:
            span.set_attribute("error.type", error.type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_ns)

    def close(self) -> None:
        """Send what has not been sent, for at most CLOSE_S; a collector that does not answer is left behind."""
        closing = threading.Thread(target=self._provider.shutdown, name="jaxserve-traces", daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class RequestTrace:
    """Collector of what the span of one request says. For the event loop."""

    def __init__(self, tracer: RequestTracer, parent: Mapping[str, str]) -> None:
        """parent: the headers that name the parent of its span."""
        self._tracer, self._parent = tracer, parent
        self._arrival_ns, self._arrival_s = time.time_ns(), time.monotonic()
        self._attributes: dict[str, Any] | None = None
        self._num_choices = self._num_tokens = 0
        self._first_s = self._last_s = None
        self._times: OutputTimes | None = None
        self._finish_reasons: dict[int, str] = {}

    def describe(self, request_id: str, jobs: Sequence[Ready]) -> None:
        """Tell what is going to be generated; without this there is no span."""
        params = jobs[0].params
        self._num_choices = len(jobs) * params.n
        self._attributes = {
            "gen_ai.request.id": request_id,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.max_tokens": params.max_tokens or 0,
            "gen_ai.request.n": params.n,
            "gen_ai.usage.prompt_tokens": sum(len(job.prompt_ids) for job in jobs),
        }

    def on_delta(self, delta: TextDelta) -> None:
        """Count a delta of a choice, when it arrives."""
        now = time.monotonic()
        if delta.token_ids and self._first_s is None:
            self._first_s = now
        self._last_s = now
        self._num_tokens += len(delta.token_ids)
        self._times = self._times or delta.times
        if delta.finish_reason is not None:
            self._finish_reasons[delta.index] = delta.finish_reason.value

    def end(self, error: ApiError | None) -> None:
        """Record the span, when nothing more will be generated. error: what has ended the request early.

        Choices that have not ended have the finish reason error, or abort if their client has left.
        """
        attributes, self._attributes = self._attributes, None
        if attributes is None:
            return
        is_whole = len(self._finish_reasons) == self._num_choices and self._last_s is not None
        end_s = self._last_s if is_whole and self._last_s is not None else time.monotonic()
        unfinished = "abort" if error is None else "error"
        reasons = [self._finish_reasons.get(index, unfinished) for index in range(self._num_choices)]
        attributes |= {
            "gen_ai.usage.completion_tokens": self._num_tokens,
            "gen_ai.response.finish_reasons": reasons,
            "gen_ai.latency.e2e": end_s - self._arrival_s,
            **self._measure_phases(),
        }
        end_ns = self._arrival_ns + int((end_s - self._arrival_s) * NANOSECONDS)
        self._tracer.record(self._parent, self._arrival_ns, end_ns, attributes, error)

    def _measure_phases(self) -> dict[str, float]:
        """Return the seconds of the request's phases, as far as it has got."""
        phases: dict[str, float] = {}
        if self._first_s is not None and self._last_s is not None:
            phases["gen_ai.latency.time_to_first_token"] = self._first_s - self._arrival_s
            phases["gen_ai.latency.time_in_model_decode"] = self._last_s - self._first_s
        if self._times is not None:
            phases["gen_ai.latency.time_in_queue"] = self._times.queue_s
            phases["gen_ai.latency.time_in_model_prefill"] = self._times.prefill_s
            decode_s = phases.get("gen_ai.latency.time_in_model_decode", 0.0)
            phases["gen_ai.latency.time_in_model_inference"] = self._times.prefill_s + decode_s
        return phases


def _read_parent(headers: Headers) -> dict[str, str]:
    """Return the headers that name the parent of a request's span, as far as they are well-formed.

    What is not is left out here, as OpenTelemetry would log it with the client's text, control characters included.
    """
    parent, state = headers.get(PARENT_HEADER, ""), headers.get(STATE_HEADER, "")
    if not parent or len(parent) > MAX_PARENT_CHARS:
        return {}
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    is_sound = len(state) <= MAX_STATE_CHARS and len(members) <= MAX_STATE_MEMBERS
    if not members or not is_sound or not all(map(_STATE_MEMBER.fullmatch, members)):
        return {PARENT_HEADER: parent}
    return {PARENT_HEADER: parent, STATE_HEADER: state}


def check_tracing(config: ServerConfig) -> None:
    """Check that spans can be sent as the settings ask for. Raises BadConfig if not."""
    if config.otlp_traces_endpoint is None:
        return
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise BadConfig(f"spans are sent by http/protobuf, not {protocol!r}: a collector has port 4318 for that.")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise BadConfig(f"otlp_traces_endpoint needs pip install 'jaxserve[otel]': {error}.") from None
