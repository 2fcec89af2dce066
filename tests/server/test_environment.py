"""Settings by file, environment and flag: which wins, and what is reported about the rest."""

import dataclasses
from pathlib import Path

import pytest

from jaxserve import EngineConfig
from server import cli
from server.config import ServerConfig
from server.environment import PREFIX, VLLM_VARIABLES
from server.flags import read_arguments

FIELDS = [field.name for config in (EngineConfig, ServerConfig) for field in dataclasses.fields(config)]


def parse(*words: str, **environ: str) -> dict[str, object]:
    return read_arguments(cli._make_serve_parser(), words, environ)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nseed: 1\nmax-num-seqs: 1\nmodel: org/file\n")
    settings = parse("--config", str(file), "--port", "3", JAXSERVE_PORT="2", JAXSERVE_SEED="2")
    assert settings == {"port": 3, "seed": 2, "max_num_seqs": 1, "model": "org/file"}
    assert parse(JAXSERVE_CONFIG=str(file), JAXSERVE_MODEL="org/env")["model"] == "org/env"
    assert parse("org/flag", JAXSERVE_MODEL="org/env")["model"] == "org/flag"


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_variable(field: str) -> None:
    action = next(
        action for action in cli._make_serve_parser()._actions if action.dest == field and action.option_strings
    )
    value = {"JSON": '{"backend": "x"}', "N": "1", "X": "0.5"}.get(str(action.metavar), "true")
    value = str(action.choices[-1]) if isinstance(action.choices, tuple) else value
    assert list(parse(**{PREFIX + field.upper(): value})) == [field]


def test_values_are_read_as_those_of_flags(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"JAXSERVE_API_KEY": '["a", "b"]', "JAXSERVE_OVERLAP": "0", "JAXSERVE_MAX_MODEL_LEN": "8k"}
    assert parse(**environ, JAXSERVE_PORT="") == {"api_key": ("a", "b"), "overlap": False, "max_model_len": 8192}
    with pytest.raises(SystemExit):
        parse(JAXSERVE_PORT="many")
    assert "jaxserve serve: JAXSERVE_PORT: argument --port: 'many' is no whole number" in capsys.readouterr().err


def test_variables_of_vllm_count_where_ours_are_not_set() -> None:
    assert parse(VLLM_API_KEY="theirs", VLLM_LOGGING_LEVEL="DEBUG") == {"api_key": ("theirs",), "log_level": "debug"}
    assert parse(VLLM_API_KEY="theirs", JAXSERVE_API_KEY="ours") == {"api_key": ("ours",)}
    assert set(VLLM_VARIABLES.values()) <= set(FIELDS)


def test_a_variable_that_names_no_setting_is_said_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(JAXSERVE_MAX_NUM_SEQ="3", JAXSERVE_WHATEVER="sk-secret") == {}
    assert capsys.readouterr().err == (
        "jaxserve: JAXSERVE_MAX_NUM_SEQ names no setting; did you mean JAXSERVE_MAX_NUM_SEQS?\n"
        "jaxserve: JAXSERVE_WHATEVER names no setting\n"
    )


def test_what_kubernetes_sets_for_a_service_of_our_name_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"JAXSERVE_SERVICE_HOST": "10.0.0.1", "JAXSERVE_PORT_8000_TCP_ADDR": "10.0.0.1"}
    assert parse(**environ, JAXSERVE_PORT="tcp://10.0.0.1:8000", JAXSERVE_SERVICE_PORT_HTTP="8000") == {}
    assert capsys.readouterr().err == ""


def test_no_secret_is_in_a_repr() -> None:
    assert "sk-1" not in repr(ServerConfig(api_key=("sk-1",)))
    assert "hf_1" not in repr(EngineConfig(hf_token="hf_1"))


@pytest.mark.parametrize(
    "words",
    [
        ["--api-kye", "sk-secret"],
        ["--no-api-key", "sk-secret"],
        ["--api-key.a", "sk-secret"],
        ["--enable-sleep-mode", "--hf-token=sk-secret"],
        ["--api-key", "sk-secret", "--port", "x"],
        ["--hf-token", "sk-secret", "--nonsense"],
        ["--api-key", "sk-a/secret", "sk-b/secret", "--served-model-name", "a", "b/c"],
    ],
)
def test_no_refusal_shows_a_secret(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*words)
    assert "secret" not in capsys.readouterr().err


def test_help_shows_the_usual_flags_first_and_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    usual = shown[shown.index("usual:") : shown.index("model:")]
    assert usual.count("\n  --") == 10 and "--max-model-len" in usual
    for action in cli._make_serve_parser()._actions:
        assert action.dest in ("help", "model", "config") or "default: " in str(action.help), action.dest
