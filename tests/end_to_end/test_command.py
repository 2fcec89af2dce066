"""The commands on a real engine: serve, chat, run, the benchmark, and their exit codes."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.running_server import SMALL_SERVER_FLAGS, RunningServer

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(*command: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], input=lines, capture_output=True, text=True, timeout=300)


def test_a_start_shows_phases_table_and_a_line_to_try(server: RunningServer) -> None:
    text = "\n".join(server.started)
    first_words = [line.split()[0] for line in server.started if line]
    for phase in ("import", "load", "compile", "Ready"):
        assert phase in first_words, text
    for row in ("model", "device", "dtype", "weights", "shapes", "address"):
        assert row in first_words, text
    curl = next(line for line in server.started if line.startswith("curl"))
    assert server.url + "/v1/chat/completions" in curl


def test_the_terminal_talks_to_it(server: RunningServer) -> None:
    ended = run("-m", "server", "chat", "--url", server.url, "--max-tokens", "8", "--seed", "1", lines="Hello\nAgain\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout) > 2


def test_the_benchmark_measures_it(server: RunningServer) -> None:
    words = ["--concurrency", "1", "3", "--num-prompts", "4", "--input-len", "60", "--output-len", "9", "--json", "-"]
    ended = run(str(SCRIPTS / "bench"), "serving", "--url", server.url, *words)
    assert ended.returncode == 0, ended.stderr
    for result in json.loads(ended.stdout):
        assert (result["completed"], result["total_output_tokens"], result["total_input_tokens"]) == (4, 36, 240)
        assert 0 < result["median_ttft_ms"] <= result["median_e2el_ms"]


def test_asked_to_stop_it_leaves_with_zero(tiny_model: Path) -> None:
    with RunningServer(tiny_model, *SMALL_SERVER_FLAGS, "--served-model-name", "tiny") as server:
        with urllib.request.urlopen(server.url + "/v1/models", timeout=60) as response:
            assert json.load(response)["data"][0]["id"] == "tiny"
        code, rest = server.stop()
    assert code == 0, rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_while_it_starts_it_leaves_at_once(tiny_model: Path, tmp_path: Path, number: int) -> None:
    uds = tmp_path / "socket"
    words = ("serve", str(tiny_model), *SMALL_SERVER_FLAGS, "--uds", str(uds), "--compilation-cache-dir", "none")
    with subprocess.Popen([sys.executable, "-m", "server", *words], stderr=subprocess.PIPE, text=True) as start:
        assert start.stderr is not None
        assert start.stderr.readline().startswith("import")  # the rest of the start takes some seconds
        start.send_signal(number)
        said = start.stderr.read()
        assert start.wait() == 0, said
    assert "before the server was ready" in said and "Ready in" not in said
    assert not uds.exists()


def test_json_lines_are_all_that_a_server_writes(tiny_model: Path) -> None:
    with RunningServer(tiny_model, *SMALL_SERVER_FLAGS, "--log-format", "json") as server:
        address = next(line for line in server.started if "(chat page)" in line)
        with urllib.request.urlopen(json.loads(address)["message"].split()[1] + "/version", timeout=60) as response:
            response.read()
        _, rest = server.stop()
    lines = [json.loads(line) for line in (*server.started, *rest.splitlines())]
    assert [line["path"] for line in lines if line["logger"] == "server.access"] == ["/version"]


def test_a_model_that_is_not_there_is_one_sentence_and_78(tmp_path: Path) -> None:
    ended = run("-m", "server", "serve", str(tmp_path / "nothing"), "--port", "0")
    assert ended.returncode == 78
    assert ended.stderr.splitlines()[-1].startswith("jaxserve: ")
    assert "Traceback" not in ended.stderr


def test_run_answers_one_question_without_a_server(tiny_model: Path, tmp_path: Path) -> None:
    words = ("--max-model-len", "64", "--max-num-batched-tokens", "16", "--compilation-cache-dir", str(tmp_path))
    words = (*words, "--max-tokens", "8", "--temperature", "0")
    asked = run("-m", "server", "run", str(tiny_model), "Who?", *words)
    piped = run("-m", "server", "run", *words, str(tiny_model), lines="Who?")
    assert (asked.returncode, piped.returncode) == (0, 0), asked.stderr + piped.stderr
    assert asked.stdout == piped.stdout and len(asked.stdout) > 2
    assert "Traceback" not in asked.stderr
