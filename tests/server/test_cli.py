"""The command line: flags, errors, and that its help imports nothing heavy."""

import dataclasses
import json
import logging
import socket
import subprocess
import sys

import pytest

from jaxserve import EngineConfig
from server import cli
from server.config import ServerConfig
from server.flags import read_arguments, select_fields

HEAVY = ("jax", "transformers", "quart", "hypercorn", "pydantic", "numpy", "torch", "rich")


def parse(*words: str) -> dict[str, object]:
    return read_arguments(cli._make_serve_parser(), words)


def parse_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == cli.EX_USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["serve", "--help"],
        ["chat", "--help"],
        ["run", "--help"],
        ["convert", "--help"],
        ["build", "--help"],
    ],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = f"""
import sys
from server.cli import main
try: code = main({words})
except SystemExit as ended: code = ended.code
assert code in (0, None), code
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines()[-1] == "[]"
    assert "jaxserve" in ended.stdout


def test_every_field_has_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    for config in (EngineConfig, ServerConfig):
        for field in dataclasses.fields(config):
            assert field.name == "model" or f"--{field.name.replace('_', '-')}" in shown
            assert field.metadata["help"], field.name


def test_only_what_was_said_is_set() -> None:
    assert parse() == {}
    assert parse("some/model", "--port", "1") == {"model": "some/model", "port": 1}
    assert parse("--port", "1", "some/model") == parse("--model", "some/model", "--port=1")


def test_dashes_and_underscores_are_one() -> None:
    assert parse("--max_num_seqs", "4") == parse("--max-num-seqs=4") == {"max_num_seqs": 4}


@pytest.mark.parametrize(("text", "value"), [("8192", 8192), ("8k", 8192), ("8K", 8192), ("-1", -1), ("auto", -1)])
def test_lengths_may_have_units(text: str, value: int) -> None:
    assert parse("--max-model-len", text) == {"max_model_len": value}


def test_booleans_have_two_faces() -> None:
    assert parse("--no-enable-prefix-caching") == {"enable_prefix_caching": False}
    assert parse("--no-overlap", "--overlap") == {"overlap": True}


def test_lists_gather_values_occurrences_and_json() -> None:
    assert parse("--api-key", "a", "b", "--api-key", "c")["api_key"] == ("a", "b", "c")
    assert parse("--allowed-origins", '["http://a", "http://b"]')["allowed_origins"] == ("http://a", "http://b")


def test_json_is_laid_under_dotted_keys() -> None:
    whole = parse("--override-generation-config", '{"temperature": 1, "top_k": 5}')
    dotted = parse("--override-generation-config.temperature", "0.5", *("--override-generation-config", '{"top_k": 5}'))
    assert whole["override_generation_config"] == {"temperature": 1, "top_k": 5}
    assert dotted["override_generation_config"] == {"temperature": 0.5, "top_k": 5}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max-model-lne", "3"], "unknown flag --max-model-lne; did you mean --max-model-len?"),
        (["--quite-different"], "unknown flag --quite-different"),
        (["--pipeline-parallel-size", "2"], "--pipeline-parallel-size 2 is not served: devices"),
        (["--no-enable-chunked-prefill"], "prompts are always read in chunks"),
        (["--port", "many"], "'many' is no whole number"),
        (["--override-generation-config", "{"], "is not JSON"),
        (["--override-generation-config", "[]"], "is not a JSON object"),
        (["--dtype", "float8"], "--dtype float8 is not served, only auto, float32, bfloat16"),
        (["--fingerprint-mode", "half"], "invalid choice"),
        (["--config", "/no/such/file.yaml"], "No such file"),
        (["one", "two"], "two"),
    ],
)
def test_the_unknown_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    shown = parse_error(capsys, *words)
    assert reason in shown
    assert shown.count("\n") == 1


def test_a_file_says_the_same_and_the_command_line_wins(tmp_path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(
        "model: m\nport: 1\nmax_model_len: 8k\nenable-prefix-caching: false\napi-key: [a, b]\n"
        "override_generation_config: {top_k: 5}\ntokenizer: null\n"
    )
    from_file = parse("--config", str(file))
    assert from_file == parse(
        *("m", "--port", "1", "--max-model-len", "8k", "--no-enable-prefix-caching", "--api-key", "a", "b"),
        *("--override-generation-config", '{"top_k": 5}'),
    )
    assert parse("--config", str(file), "--port", "2", "--api-key", "c") == from_file | {"port": 2, "api_key": ("c",)}


def test_the_words_reach_the_two_configs() -> None:
    words = parse("m", "--port", "1", "--seed", "7")
    assert EngineConfig(**select_fields(EngineConfig, words)).seed == 7
    assert ServerConfig(**select_fields(ServerConfig, words)).port == 1


@pytest.mark.parametrize("words", [["serv"], ["chta"]])
def test_a_mistyped_command_gets_a_guess(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(words) == cli.EX_USAGE
    assert "did you mean" in capsys.readouterr().err


def test_a_setting_that_cannot_work_is_one_sentence_and_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--block-size", "3"]) == cli.EX_CONFIG
    shown = capsys.readouterr().err
    assert shown == "jaxserve: block_size must be a power of two, got 3; 16 is usual.\n"


@pytest.mark.parametrize(("words", "is_told"), [(["--api-key", "k"], True), (["--api-key=k"], True), ([], False)])
def test_a_key_that_others_can_read_is_told(monkeypatch: pytest.MonkeyPatch, words: list[str], is_told: bool) -> None:
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("server.cli"), "warning", told.append)
    assert cli.main(["serve", *words, "--port", "-1"]) == cli.EX_CONFIG
    assert told == [cli.VISIBLE_KEY] * is_told


def test_a_taken_port_is_noticed_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--host", "127.0.0.1", "--port", str(port)]) == cli.EX_CONFIG
    assert f"port {port} is in use by another process" in capsys.readouterr().err.splitlines()[-1]


def test_the_environment_reaches_the_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServerConfig] = []
    monkeypatch.setattr(cli, "_serve", lambda engine, server: seen.append(server) or 0)
    monkeypatch.setenv("VLLM_API_KEY", "theirs")
    assert cli.main(["serve"]) == cli.main(["serve", "--api-key", "said"]) == 0
    assert [config.api_key for config in seen] == [("theirs",), ("said",)]


def test_the_line_to_try_is_a_command_a_shell_takes() -> None:
    import shlex

    from server.startup import make_curl_command

    words = shlex.split(make_curl_command("http://localhost", has_key=True, uds="/run/a b/socket"))
    assert words[1:4] == ["--unix-socket", "/run/a b/socket", "http://localhost/v1/chat/completions"]
    words = shlex.split(make_curl_command("http://localhost:8000", has_key=True))
    assert "--unix-socket" not in words
    assert json.loads(words[words.index("-d") + 1])["messages"][0]["role"] == "user"
    assert "Authorization: Bearer $JAXSERVE_API_KEY" in words
