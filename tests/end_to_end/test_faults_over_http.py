"""A real server whose steps fail on purpose: clients get their tokens, or health and the exit code tell the truth."""

import json
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.end_to_end.running_server import QUICK_TO_COMPILE, SMALL_SERVER_FLAGS, SMALLEST_SERVER_FLAGS, RunningServer

LENGTHS = (5, 40, 17, 90, 9, 31)


def stream(url: str, length: int, label: str | None = None) -> tuple[str, str | None]:
    """Return the text of a completion and its finish reason or error; a short prompt is sampled, with a seed."""
    body = {"prompt": [3 + at % 200 for at in range(length)], "max_tokens": 30, "stream": True, "ignore_eos": True}
    body |= {"temperature": 1.0, "seed": 7} if length < 20 else {"temperature": 0}
    body |= {"request_id": label} if label else {}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    text, reason = "", None
    try:
        response = urllib.request.urlopen(request, timeout=120)
    except urllib.error.HTTPError as error:
        return text, json.load(error)["error"]["message"]
    with response:
        for line in response:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    return text, event["error"]["message"]
                text += event["choices"][0]["text"]
                reason = event["choices"][0]["finish_reason"] or reason
    return text, reason


def stream_all(url: str) -> list[tuple[str, str | None]]:
    with ThreadPoolExecutor(len(LENGTHS)) as threads:
        return list(threads.map(lambda length: stream(url, length), LENGTHS))


def get_status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def read_counter(url: str, name: str) -> float:
    with urllib.request.urlopen(url + "/metrics", timeout=60) as response:
        match = re.search(rf"^jaxserve_{name}_total{{.*}} (\S+)$", response.read().decode(), re.MULTILINE)
    assert match
    return float(match[1])


def with_faults(*faults: str) -> tuple[str, ...]:
    return (*SMALL_SERVER_FLAGS, "--allow-fault-injection", *(word for fault in faults for word in ("--fault", fault)))


def test_steps_that_raise_cost_no_stream_a_token(tiny_model: Path, server: RunningServer) -> None:
    expected = stream_all(server.url)
    assert {reason for _, reason in expected} == {"length"}
    with RunningServer(tiny_model, *with_faults("step_raise@7", "step_raise@40")) as faulty:
        compiled = read_counter(faulty.url, "compilations")
        assert stream_all(faulty.url) == expected
        assert get_status(faulty.url + "/health") == 200
        assert read_counter(faulty.url, "engine_rebuilds") == 2
        assert read_counter(faulty.url, "compilations") == compiled
        code, text = faulty.stop()
    assert code == 0
    assert "FAULT INJECTION IS ON" in "\n".join(faulty.started)
    assert "injected fault: step_raise" in text


def test_a_detokenizer_that_raises_ends_its_own_stream_only(tiny_model: Path) -> None:
    with RunningServer(tiny_model, *with_faults("detok_raise@20", "detok_raise@one", "step_raise@another")) as faulty:
        reasons = [reason for _, reason in stream_all(faulty.url)]
        assert sorted(reasons, key=str).count("length") == len(LENGTHS) - 1
        assert stream(faulty.url, 9)[1] == "length"
        labels = (None, "one", "other", "another", "on")
        with ThreadPoolExecutor(len(labels)) as threads:
            named = dict(zip(labels, threads.map(lambda label: stream(faulty.url, 9, label), labels), strict=True))
        assert {label for label, (_, reason) in named.items() if reason != "length"} == {"one", "another"}
        assert named[None] == named["other"] == named["on"] == stream(faulty.url, 9)


def test_a_disk_that_is_full_costs_warnings_and_no_answer(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", QUICK_TO_COMPILE)
    flags = (*SMALLEST_SERVER_FLAGS, "--roofline", "--allow-fault-injection", "--fault", "disk_full@1")
    with RunningServer(tiny_model, *flags) as faulty:
        assert stream(faulty.url, 9)[1] == "length"
        code, text = faulty.stop()
    warnings = [line for line in [*faulty.started, *text.splitlines()] if "No space left" in line]
    assert sum("compiled programs cannot be kept" in line for line in warnings) == 1
    assert sum("measured at every start" in line for line in warnings) == 1
    assert code == 0
    assert not [path for path in (tmp_path / "jaxserve").rglob("*") if path.is_file()]


def test_a_step_that_hangs_fails_health_then_ends_the_server_with_70(tiny_model: Path) -> None:
    with RunningServer(tiny_model, *with_faults("step_hang@20:600"), "--step-timeout-s", "8") as faulty:
        assert get_status(faulty.url + "/health") == 200
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(stream, faulty.url, 9)
            while get_status(faulty.url + "/health") == 200:
                pass
            assert get_status(faulty.url + "/live") == 200
            assert not hanging.done(), "the engine is late, not dead yet"
            assert hanging.result()[1] != "length"
        code, text = faulty.wait()
    assert code == 70
    assert "the engine is dead; its threads:" in text and "jaxserve-engine" in text


def test_an_engine_whose_thread_ends_ends_the_server_with_70(tiny_model: Path) -> None:
    with RunningServer(tiny_model, *with_faults("engine_exit@9")) as faulty:
        assert stream(faulty.url, 9)[1] != "length"
        code, _ = faulty.wait()
    assert code == 70
