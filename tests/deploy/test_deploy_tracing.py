"""The collector of compose gets the spans of its server: addresses, pipeline and limits fit together."""

import shutil
import subprocess
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from server.config import ServerConfig
from server.tracing import check_tracing
from tests.deploy.dockerfile import DEPLOY
from tests.deploy.settings import ComposeLoader, read_settings

SERVICE, PATH = "otel-collector", "/v1/traces"  # that of OTLP over HTTP
CONFIG = DEPLOY / "otel" / "config.yaml"
OTELCOL = shutil.which("otelcol") or shutil.which("otelcol-contrib")


def load_services() -> dict[str, Any]:
    return yaml.load((DEPLOY / "compose.yaml").read_text(), ComposeLoader)["services"]


def load_collector() -> dict[str, Any]:
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def read_server() -> ServerConfig:
    environ = load_services()["jaxserve"]["environment"]
    _, server = read_settings([], {name: text for name, text in environ.items() if name.startswith("JAXSERVE_")})
    return server


def test_the_server_sends_its_spans_where_the_collector_listens() -> None:
    endpoint = urlsplit(read_server().otlp_traces_endpoint)
    listens_at = load_collector()["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert endpoint.hostname == SERVICE and SERVICE in load_services()
    assert (endpoint.scheme, endpoint.path) == ("http", PATH)
    assert listens_at == f"0.0.0.0:{endpoint.port}"


def test_the_server_can_send_spans_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    check_tracing(read_server())


def test_the_collector_reads_the_file_that_is_mounted() -> None:
    service = load_services()[SERVICE]
    [words] = [word.partition("=") for word in service["command"]]
    assert words[0] == "--config"
    folder, target, mode = service["volumes"][0].split(":")
    assert (DEPLOY / folder / words[2].removeprefix(f"{target}/")) == CONFIG and mode == "ro"


def test_every_part_of_the_collector_is_declared_and_used() -> None:
    config = load_collector()
    pipelines = config["service"]["pipelines"]
    assert list(pipelines) == ["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipeline in pipelines.values() for name in pipeline[kind]} == config[kind].keys()
    assert config.keys() == {"receivers", "processors", "exporters", "service"}


def test_the_collector_refuses_spans_before_it_is_out_of_memory() -> None:
    config = load_collector()
    assert config["service"]["pipelines"]["traces"]["processors"][0] == "memory_limiter"
    limits = config["processors"]["memory_limiter"]
    assert 0 < limits["spike_limit_mib"] < limits["limit_mib"] < int(load_services()[SERVICE]["mem_limit"].rstrip("m"))


def test_the_collector_is_reached_by_the_server_alone() -> None:
    assert "ports" not in load_services()[SERVICE]


@pytest.mark.skipif(OTELCOL is None, reason="no otelcol here; OpenTelemetry's releases have it")
def test_the_collector_takes_its_configuration() -> None:
    ended = subprocess.run(
        [str(OTELCOL), "validate", f"--config={CONFIG}"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
