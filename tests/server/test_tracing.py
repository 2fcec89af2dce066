"""One span for each request, with vLLM's names, below the client's own; without the flag there is nothing of it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from werkzeug.datastructures import Headers

from jaxserve import BadConfig, GenerationFailed, SamplingParams
from server import tracing
from server.app import get_state
from server.config import ServerConfig
from server.startup_checks import check_server
from server.tracing import RequestTracer
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT, Api
from tests.server.live_server import post, serve_live
from tests.sources import REPO

SAMPLING = SamplingParams(max_tokens=3)
ENDPOINT = "http://127.0.0.1:9/v1/traces"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class TracedApi(Api):
    """An app whose spans stay in memory."""

    def __init__(self, llm: FakeLLM) -> None:
        super().__init__(llm)
        self._exporter = InMemorySpanExporter()
        self.tracer = get_state(self.app).tracer = RequestTracer("served", self._exporter)

    def finish(self) -> list[ReadableSpan]:
        """Return the spans of all requests."""
        self.tracer.close()
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def traced() -> Iterator[Callable[..., TracedApi]]:
    made: list[TracedApi] = []

    def make(*pieces: Any) -> TracedApi:
        made.append(TracedApi(FakeLLM(*pieces)))
        return made[-1]

    yield make
    for api in made:
        api.tracer.close()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes without times, which must all be there and not be negative."""
    values = dict(span.attributes or {})
    latencies = {name: values.pop(name) for name in list(values) if name.startswith("gen_ai.latency.")}
    assert all(seconds >= 0 for seconds in latencies.values())
    assert {"gen_ai.latency.e2e", "gen_ai.latency.time_to_first_token"} <= latencies.keys()
    assert latencies["gen_ai.latency.time_to_first_token"] <= latencies["gen_ai.latency.e2e"]
    assert span.end_time - span.start_time == pytest.approx(latencies["gen_ai.latency.e2e"] * 1e9, abs=2)
    return values


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_span(traced, stream):
    api = traced(["Hel", "lo"])
    fields = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "request_id": "mine", "stream": stream}
    assert (await api.chat(**fields)).status == 200
    [span] = api.finish()
    assert (span.name, span.kind, span.parent) == ("llm_request", SpanKind.SERVER, None)
    assert span.status.status_code == StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "jaxserve"
    assert attributes(span) == {
        "gen_ai.request.id": "chatcmpl-mine",
        "gen_ai.response.model": "served",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.n": 1,
        "gen_ai.usage.prompt_tokens": len(api.llm.calls[0].prompt_ids),
        "gen_ai.usage.completion_tokens": 5,
        "gen_ai.response.finish_reasons": ("stop",),
    }


async def test_prompts_and_choices_are_one_span(traced):
    api = traced(["abc"], ["d"])
    reply = await api.complete(prompt=["x", "yz"], n=2, max_tokens=2, temperature=1.0)
    assert reply.status == 200
    [span] = api.finish()
    values = attributes(span)
    usage = reply.json["usage"]
    assert values["gen_ai.usage.prompt_tokens"] == usage["prompt_tokens"]
    assert values["gen_ai.usage.completion_tokens"] == usage["completion_tokens"] == 6
    assert values["gen_ai.request.n"] == 2
    assert values["gen_ai.response.finish_reasons"] == ("length", "stop", "length", "stop")


async def test_the_span_is_below_the_one_that_the_client_names(traced):
    api = traced()
    await api.chat(headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=1"})
    [span] = api.finish()
    assert format(span.context.trace_id, "032x") == TRACE_ID
    assert format(span.parent.span_id, "016x") == SPAN_ID
    assert span.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "header", ["", "00", f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{'x' * 32}-{SPAN_ID}-01", "00-" * 5000, "\xe9-\u0142"]
)
async def test_a_header_that_names_no_span_is_not_looked_at(traced, header):
    api = traced()
    trace = api.tracer.begin(Headers({"traceparent": header, "tracestate": "=,;" * 50}))
    trace.describe("cmpl-1", [await api.llm.prepare([5], SAMPLING)])
    trace.end(None)
    assert [span.parent for span in api.finish()] == [None]


@pytest.mark.parametrize(
    "state",
    [
        "vendor=\x1b[31mred",
        "vendor=1,\x1b]0;title\x07",
        "VENDOR=1",
        "vendor",
        "vendor=\xe9",
        ",".join(f"v{number}=1" for number in range(33)),
        "vendor=" + "x" * 9000,
        ",".join(f"v{number}=" + "x" * 256 for number in range(32)),
        "vendor=1,vendor=2",
    ],
)
async def test_a_state_that_is_not_well_formed_is_dropped_and_not_logged(traced, caplog, state):
    api = traced()
    for parent in (f"00-{TRACE_ID}-{SPAN_ID}-01", "0" * 600):
        trace = api.tracer.begin(Headers({"traceparent": parent, "tracestate": state}))
        trace.describe("cmpl-1", [await api.llm.prepare([5], SAMPLING)])
        trace.end(None)
    first, second = api.finish()
    assert (format(first.parent.span_id, "016x"), second.parent) == (SPAN_ID, None)
    assert not first.context.trace_state
    assert caplog.records == []


async def test_what_fails_and_who_leaves_is_told(traced):
    api = traced(["a", "b"])
    api.llm.fail_at, api.llm.generate_error = 1, GenerationFailed("with a secret in it")
    assert (await api.chat()).status == 500
    [span] = api.finish()
    assert span.status.status_code == StatusCode.ERROR
    values = attributes(span)
    assert values["gen_ai.response.finish_reasons"] == ("error",)
    assert values["error.type"] == "InternalServerError"
    assert "secret" not in span.to_json()


async def test_a_client_that_leaves_is_an_abort():
    exporter, llm = InMemorySpanExporter(), FakeLLM(["a", "b"])
    llm.hold_at = 1
    async with serve_live(llm) as live:
        get_state(live.app).tracer = RequestTracer("served", exporter)
        async with live.connection() as peer:
            await peer.send(post("/v1/chat/completions", CHAT))
            await llm.wait_until(lambda llm: llm.calls)
        await llm.wait_until(lambda llm: llm.ends["aborted"])
    [span] = exporter.get_finished_spans()
    assert attributes(span)["gen_ai.response.finish_reasons"] == ("abort",)


async def test_a_request_that_is_refused_has_no_span(traced):
    api = traced()
    assert (await api.chat(temperature=-1)).status == 400
    assert api.finish() == []


PROGRAM = """
import sys
from server.app import create_app, get_state
from server.config import ServerConfig
from tests.fake_llm import FakeLLM
app = create_app(FakeLLM(), ServerConfig())
assert get_state(app).tracer is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_without_the_flag_nothing_is_imported():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=REPO)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_without_the_extra_the_start_is_refused(monkeypatch):
    check_server(ServerConfig(otlp_traces_endpoint=ENDPOINT))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadConfig, match=r"pip install 'jaxserve\[otel\]'"):
        check_server(ServerConfig(otlp_traces_endpoint=ENDPOINT))
    check_server(ServerConfig())


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    with pytest.raises(BadConfig, match="http/protobuf, not 'grpc'"):
        check_server(ServerConfig(otlp_traces_endpoint=ENDPOINT))
    with pytest.raises(BadConfig, match="must be a URL"):
        ServerConfig(otlp_traces_endpoint="localhost:4318")


class Collector(ThreadingHTTPServer):
    """What takes spans by OTLP over HTTP; with `silent` it takes requests and never answers."""

    daemon_threads = True

    def __init__(self, *, silent: bool = False) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.paths.append(self.path)
                collector.received.append(ExportTraceServiceRequest.FromString(body))
                if silent:
                    collector.released.wait()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


async def ask(llm: FakeLLM, endpoint: str) -> tuple[int, bytes]:
    """Return the reply of a server that sends its spans there, after it has ended."""
    async with serve_live(llm, otlp_traces_endpoint=endpoint) as live, live.connection() as peer:
        await peer.send(post("/v1/chat/completions", CHAT))
        return await peer.read_reply()


async def test_a_collector_gets_the_spans():
    collector = Collector()
    status, _ = await ask(FakeLLM(["Hel", "lo"]), collector.url)
    collector.stop()
    assert status == 200
    assert collector.paths == ["/v1/traces"]
    [resource] = collector.received[0].resource_spans
    [span] = resource.scope_spans[0].spans
    values = {item.key: item.value for item in span.attributes}
    assert span.name == "llm_request"
    assert values["gen_ai.usage.completion_tokens"].int_value == 5
    assert values["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_collector_that_does_not_answer_harms_nothing(is_there, monkeypatch):
    monkeypatch.setattr(tracing, "CLOSE_S", 0.1)
    collector = Collector(silent=True)
    url = collector.url
    if not is_there:
        collector.stop()
    llm = FakeLLM(["Hel", "lo"])
    status, body = await ask(llm, url)
    if is_there:
        collector.stop()
    assert status == 200 and b"Hello" in body
    assert llm.is_closed
