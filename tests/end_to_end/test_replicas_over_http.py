"""`serve --data-parallel-size 2` on a CPU that counts as two devices, or as four, two a replica."""

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.running_server import QUICK_TO_COMPILE, SMALLEST_SERVER_FLAGS, RunningServer
from tests.models.tiny import write


def complete(url, rank=None, **fields):
    headers = {"Content-Type": "application/json"} | ({} if rank is None else {"X-data-parallel-rank": str(rank)})
    body = json.dumps({"prompt": "abc", "temperature": 0, "max_tokens": 5, "ignore_eos": True} | fields).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def generated(url):
    """Return the tokens that each replica has generated, as /metrics tells."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    [family] = [one for one in text_string_to_metric_families(text) if one.name == "vllm:generation_tokens"]
    return {sample.labels["engine"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


@pytest.mark.parametrize("devices_per_replica", [1, 2])
def test_two_replicas_over_http(tmp_path, monkeypatch, devices_per_replica):
    monkeypatch.setenv("XLA_FLAGS", QUICK_TO_COMPILE)
    model = write(tmp_path, "llama", seed=3)
    flags = ("--data-parallel-size", "2", "--tensor-parallel-size", str(devices_per_replica))
    with RunningServer(model, *SMALLEST_SERVER_FLAGS, *flags) as server:
        texts = [complete(server.url, rank)[1]["choices"][0]["text"] for rank in (0, 1, 1, None, "x")]
        assert len(set(texts)) == 1
        tokens = generated(server.url)
        assert sum(tokens.values()) == 25 and tokens["0"] >= 5 and tokens["1"] >= 10
        status, body = complete(server.url, 2)
        assert status == 400
        assert body["error"]["message"] == "X-data-parallel-rank must be from 0 to 1: there are 2 replicas, got 2."
        assert complete(server.url, -1)[0] == 400
        assert urllib.request.urlopen(f"{server.url}/health").status == 200
        code, rest = server.stop()
        assert code == 0, rest
