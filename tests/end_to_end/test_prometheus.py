"""Prometheus itself scrapes the server, and finds what our dashboard and vLLM's Grafana board ask for."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from scripts.deploy import dashboard
from tests.deploy.promql import fill_variables
from tests.end_to_end.running_server import RunningServer

DOWNLOADED = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "prometheus"
PROGRAM = shutil.which("prometheus") or (str(DOWNLOADED) if DOWNLOADED.is_file() else None)
PATIENCE_S, PAUSE_S = 60, 0.1
LATENCIES = ("e2e_request_latency_seconds", "inter_token_latency_seconds", "time_to_first_token_seconds")
SUMS = ("queue_time_seconds", "prefill_time_seconds", "decode_time_seconds", "max_num_generation_tokens")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no prometheus here; scripts/test fetches Debian's")


def panels(model: str) -> Iterator[str]:
    """The queries of the board in vLLM's repository (examples/observability), with the variables filled in."""
    only, window = f'{{model_name="{model}"}}', "[1m]"
    for name in LATENCIES:
        for quantile in (0.99, 0.95, 0.9, 0.5):
            yield f"histogram_quantile({quantile}, sum by(le) (rate(vllm:{name}_bucket{only}{window})))"
        yield f"rate(vllm:{name}_sum{only}{window}) / rate(vllm:{name}_count{only}{window})"
    for name in ("prompt_tokens", "generation_tokens"):
        yield f"rate(vllm:{name}_total{only}{window})"
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        yield f"vllm:{name}{only}"
    for name in ("request_prompt_tokens", "request_generation_tokens"):
        yield f"sum by(le) (increase(vllm:{name}_bucket{only}{window}))"
    yield f"sum by(finished_reason) (increase(vllm:request_success_total{only}{window}))"
    for name in SUMS:
        yield f"rate(vllm:request_{name}_sum{only}{window})"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": query}).json()
        return answer["data"]["result"]

    def until(self, query: str) -> None:
        """Waits until the query finds something."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / PAUSE_S)):
            if self.ask(query):
                return
            pause.wait(PAUSE_S)
        raise AssertionError(f"{query} found nothing within {PATIENCE_S} s")


@pytest.fixture
def prometheus(server: RunningServer, tmp_path: Path) -> Iterator[Prometheus]:
    job = {"job_name": "llm", "static_configs": [{"targets": [urlsplit(server.url).netloc]}]}
    config = {"global": {"scrape_interval": "300ms", "scrape_timeout": "300ms"}, "scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    words += [f"--web.listen-address={address}", "--web.console.templates=", "--web.console.libraries="]
    with subprocess.Popen([str(PROGRAM), *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        reader = threading.Thread(target=process.stderr.read)
        try:
            for line in process.stderr:
                if "ready to receive web requests" in line:
                    break
            reader.start()
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            reader.join()


def test_every_panel_of_vllms_board_finds_its_series(prometheus: Prometheus, server: RunningServer) -> None:
    prometheus.until("vllm:num_requests_running")
    model = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
    body = {"prompt": "Once", "max_tokens": 8, "ignore_eos": True}
    before = prometheus.ask("vllm:generation_tokens_total")[0]["value"]
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    prometheus.until(f"vllm:generation_tokens_total >= {float(before[1]) + 8}")
    assert not [query for query in panels(model) if not prometheus.ask(query)]
    assert float(prometheus.ask("increase(vllm:generation_tokens_total[1m])")[0]["value"][1]) > 0


def test_every_query_of_our_dashboard_finds_its_series(prometheus: Prometheus, server: RunningServer) -> None:
    body = {"prompt": "Once", "max_tokens": 8, "ignore_eos": True}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    for panels in dashboard.ROWS.values():
        for query in (query for panel in panels for query in panel.queries):
            if "jaxserve_device_memory" in query.expr:
                continue  # a CPU has none of its own
            prometheus.until(fill_variables(query.expr))
