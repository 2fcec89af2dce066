"""vLLM's command line: each of its flags, its spellings, and command lines from documentation."""

import argparse
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import cli
from server.flag_translator import FlagTranslator
from server.flags import read_arguments
from server.suggestions import suggest
from server.vllm_flags import SHORT_FLAGS, VLLM_FLAGS

DATA = Path(__file__).parents[1] / "data" / "vllm"
VLLM = DATA.joinpath("flags.txt").read_text().split()  # the option strings of `vllm serve` 0.33
LONG = [name[2:] for name in VLLM if name.startswith("--")]
LINES = [json.loads(line) for line in DATA.joinpath("serve_lines.jsonl").read_text().splitlines()]
OURS = {
    action.option_strings[0][2:]: action for action in cli._make_serve_parser()._actions[1:] if action.option_strings
}
MISTYPED = ("flag --tensor-parallel;", "flag --tool-call-parser-plugin;")  # on the pages that they come from, too
VALUE = {"nothing": [], "value": ["x"], "values": ["x", "y"], "optional": ["x"]}


def said(*words: str) -> dict[str, object]:
    return read_arguments(cli._make_serve_parser(), words)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        said(*words)
    assert ended.value.code == cli.EX_USAGE
    return capsys.readouterr().err


def test_every_flag_of_vllm_is_in_the_table_or_ours_and_none_is_in_both() -> None:
    assert len(LONG) > 300
    assert [name for name in LONG if name not in VLLM_FLAGS and name not in OURS] == []
    assert VLLM_FLAGS.keys() & OURS.keys() == set()


def test_every_short_form_of_vllm_stands_for_a_known_flag() -> None:
    assert {name[1:] for name in VLLM if not name.startswith("--")} == SHORT_FLAGS.keys()
    assert set(SHORT_FLAGS.values()) <= VLLM_FLAGS.keys() | OURS.keys()


def test_every_row_says_one_thing() -> None:
    for flag in VLLM_FLAGS.values():
        assert (flag.alias_of is None) == bool(flag.reason), flag.name
        if flag.alias_of is not None:
            ours = OURS[flag.alias_of.removeprefix("no-")]
            assert isinstance(ours, argparse.BooleanOptionalAction) == (flag.arity == "nothing"), flag.name


@pytest.mark.parametrize(
    "name", [name for name, flag in VLLM_FLAGS.items() if not flag.is_refused and not flag.alias_of]
)
def test_what_has_no_effect_is_left_out_with_its_words_and_said_once(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = [f"--{name}", *VALUE[VLLM_FLAGS[name].arity]]
    assert said(*words, "--port", "1", *words) == {"port": 1}
    assert capsys.readouterr().err == f"jaxserve: --{name} has no effect: {VLLM_FLAGS[name].reason}\n"


@pytest.mark.parametrize("name", [name for name, flag in VLLM_FLAGS.items() if flag.is_refused])
def test_what_is_refused_is_named_with_the_reason_unless_it_asks_for_what_is_done(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    row = VLLM_FLAGS[name]
    on = "false" not in row.neutral
    shown = refusal(capsys, *([f"--{name}={str(not on).lower()}"] if row.arity == "nothing" else [f"--{name}", "x"]))
    assert f"--{name}" in shown and "is not served: " + row.reason in shown
    for value in row.neutral:
        assert said(f"--{name}={value}", "--port", "1") == {"port": 1}
    assert capsys.readouterr().err == ""


def test_all_that_is_refused_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = refusal(capsys, "m", "-pp", "2", "--grpc", "--enforce-eager", "--max-mdoel-len", "8")
    assert [line.split()[2] for line in shown.splitlines()] == ["--pipeline-parallel-size", "--grpc", "unknown"]


@pytest.mark.parametrize("words", LINES, ids=range(len(LINES)))
def test_a_pasted_line_starts_or_is_refused_flag_by_flag(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    try:
        assert said(*words)["model"] == words[0]
    except SystemExit:
        for line in capsys.readouterr().err.splitlines():
            assert " is not served" in line or any(name in line for name in MISTYPED)


def test_more_than_half_of_the_pasted_lines_start(capsys: pytest.CaptureFixture[str]) -> None:
    """The others ask for pipelines, packing on the way, drafts or plug-ins."""
    started = 0
    for words in LINES:
        try:
            started += bool(said(*words))
        except SystemExit:
            continue
    assert (started, len(LINES)) == (66, 92)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (
            ["-tp", "2", "-dp", "3", "-ep"],
            {"tensor_parallel_size": 2, "data_parallel_size": 3, "enable_expert_parallel": True},
        ),
        (["-pp=1", "-O3", "-O", "2", "-O=1", "-asc", "1"], {}),
        (["-q", "int8"], {"quantization": "int8"}),
        (["-cc.mode=3", "-cc", "{}", "--compilation_config.pass_config.fuse", "true"], {}),
        (["--limit-mm-per-prompt.image", "4", "--kernel-config.enable_flashinfer_autotune=False"], {}),
        (["--structured-outputs-config.backend", "x"], {"structured_outputs_config": {"backend": "x"}}),
        (["--hf-overrides.text_config.rope_theta", "1e6"], {"hf_overrides": {"text_config": {"rope_theta": 1e6}}}),
        (["--hf-overrides.a+", "b,c", "--hf-overrides.a+=d"], {"hf_overrides": {"a": ["b", "c", "d"]}}),
        (["--enable-chunked-prefill", "True"], {}),
        (["--enable-prefix-caching=false"], {"enable_prefix_caching": False}),
        (["--no-enable-prefix-caching", "False"], {"enable_prefix_caching": True}),
        (["--no-fully-sharded-loras", "--enable-eplb=false"], {}),
        (
            ["--enable-lora", "--lora-modules", "a=x", '{"name": "b", "path": "y"}', "--max-loras", "2"],
            {"enable_lora": True, "lora_modules": ("a=x", '{"name": "b", "path": "y"}'), "max_loras": 2},
        ),
        (["--lora-modules", "a=x", "org/m"], {"lora_modules": ("a=x",), "model": "org/m"}),
        (["--async-scheduling"], {"overlap": True}),
        (["--num-scheduler-steps", "8", "--multi-step-stream-outputs"], {"num_scheduler_steps": 8}),
        (["--no-async-scheduling"], {"overlap": False}),
        (["--disable-log-requests"], {"enable_log_requests": False}),
        (["--disable-uvicorn-access-log"], {"disable_access_log": True}),
        (["--uvicorn-log-level", "trace"], {"log_level": "debug"}),
        (["--dtype", "float"], {"dtype": "float32"}),
        (["--kv-cache-dtype", "fp8", "--calculate-kv-scales"], {"kv_cache_dtype": "fp8"}),
        (["--attention-backend", "FLASH_ATTN"], {}),
        (["--attention-backend", "cpu"], {"attention_backend": "cpu"}),
        (["--quantization", "gguf"], {}),
        (["--quantization", "awq_marlin"], {}),
        (["--hf-token", "hf_x", "--hf-token"], {"hf_token": None}),
        (["--shutdown-timeout", "5", "--h11-max-header-count", "7"], {"drain_timeout_s": 5.0, "max_headers": 7}),
    ],
)
def test_every_spelling_of_vllm_is_understood(words: list[str], values: dict[str, object]) -> None:
    assert said(*words) == values


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--api-key", "secret", "org/model"], {"api_key": ("secret",), "model": "org/model"}),
        (["org/model", "--api-key", "a", "b"], {"api_key": ("a", "b"), "model": "org/model"}),
        (["org/model", "--api-key", "a", "b/c"], {"api_key": ("a", "b/c"), "model": "org/model"}),
        (["--api-key", "a", "b/c", "--model", "m"], {"api_key": ("a", "b/c"), "model": "m"}),
        (["--api-key", "a", "b"], {"api_key": ("a", "b")}),
        (["--api-key", "b/c"], {"api_key": ("b/c",)}),
        (["--served-model-name", "a", "b", "./m.gguf"], {"served_model_name": ("a", "b"), "model": "./m.gguf"}),
        (["--cudagraph-capture-sizes", "1", "2", "org/m"], {"model": "org/m"}),
        (["--hf-token", "org/model"], {"hf_token": None, "model": "org/model"}),
        (["--hf-token", "hf_x", "org/model"], {"hf_token": "hf_x", "model": "org/model"}),
        (["--api-key", "-5", "--port", "1", "m"], {"api_key": ("-5",), "port": 1, "model": "m"}),
    ],
)
def test_a_flag_of_several_words_leaves_the_model_alone(words: list[str], values: dict[str, object]) -> None:
    assert said(*words) == values


def test_a_model_that_could_be_one_of_two_words_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = refusal(capsys, "--api-key", "a", "b/c", "--served-model-name", "d", "e/f")
    assert "--api-key or --served-model-name; put MODEL first" in shown and "b/c" not in shown
    assert "one model is served, and 2 are named: 'a' and 'b'" in refusal(capsys, "a", "--model", "b")


NAMES = st.sampled_from(
    [*(f"--{name}" for name in [*OURS, *VLLM_FLAGS] if name != "config"), *(f"-{name}" for name in SHORT_FLAGS)]
)
ODD = st.sampled_from(
    ["", "-", "--", "-1", "x", "{", '{"a": 1}', "[1]", "org/m", "--.a", "--=", "-.", "--no-", "-O.x=1", "true"]
)
WORDS = st.one_of(NAMES, ODD, st.builds("{}={}".format, NAMES, ODD), st.builds("{}.{}".format, NAMES, ODD))


@settings(deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        assert isinstance(said(*words), dict)
    except SystemExit as ended:
        assert ended.code in (0, cli.EX_USAGE)


@settings(deadline=None)
@given(st.sampled_from(sorted(OURS)), st.data())
def test_a_slip_of_the_finger_is_guessed(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name) - 1))
    typed = data.draw(st.sampled_from([name[:place] + name[place + 1 :], name[:place] + "x" + name[place:]]))
    assert suggest(typed, OURS) == name or typed in OURS or len(name) < 5


@pytest.mark.parametrize(
    ("typed", "guess"),
    [
        *[("enable-sleep-mode", None), ("disable-log-stats", None), ("limit-mm-per-prompt", None)],
        *[("speculative-config", None), ("async-scheduling", None), ("quite-different", None)],
        *[("disable-prefix-caching", "no-enable-prefix-caching"), ("max-model-length", "max-model-len")],
        *[("no-enable-prefx-caching", "no-enable-prefix-caching"), ("api-keys", "api-key")],
    ],
)
def test_a_guess_is_near_or_not_made(typed: str, guess: str | None) -> None:
    assert suggest(typed, OURS) == guess


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith(("enable-", "disable-"))])
def test_no_guess_is_the_contrary_of_what_was_typed(name: str) -> None:
    sense, _, rest = name.partition("-")
    contrary = f"{'disable' if sense == 'enable' else 'enable'}-{rest}"
    assert suggest(contrary, OURS) in (None, f"no-{name}")


def test_the_table_is_asked_for_the_words_that_a_flag_takes() -> None:
    translator = FlagTranslator.from_parser(cli._make_serve_parser())
    taken = translator.parse(["--api-key", "a", "b", "--swap-space", "4", "m", "--enforce-eager", "n"])
    assert [flag.values for flag in taken.flags] == [("a", "b"), ("4",), ()]
    assert taken.positionals == ("m", "n")
