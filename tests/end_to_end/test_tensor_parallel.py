"""`jaxserve serve --tensor-parallel-size 2` over a CPU that counts as two devices."""

import json
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.running_server import QUICK_TO_COMPILE, SMALLEST_SERVER_FLAGS, RunningServer
from tests.models.tiny import write

PROMPT = {"prompt": "Two devices", "max_tokens": 12, "seed": 7, "logprobs": 2, "temperature": 0.8}


def post(url: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_mixture_of_experts_is_served_by_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", QUICK_TO_COMPILE)
    model = write(tmp_path / "moe", "qwen3_moe", seed=3)
    flags = ("--tensor-parallel-size", "2", "--enable-expert-parallel")
    with RunningServer(model, *SMALLEST_SERVER_FLAGS, *flags) as server:
        assert any("2 x cpu" in line for line in server.started)
        first, second = (post(server.url, "/v1/completions", PROMPT)["choices"] for _ in range(2))
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as response:
            assert 'tensor_parallel_size="2"' in response.read().decode()
        assert first[0]["text"] == second[0]["text"] and len(first[0]["logprobs"]["tokens"]) == 12
        assert server.stop()[0] == 0
