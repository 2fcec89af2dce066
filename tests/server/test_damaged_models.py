"""Damaged and hostile small files of a model: each start ends with one sentence and exit code 78, soon."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import save_file

from jaxserve import EngineConfig
from jaxserve.engine import build as build_module
from jaxserve.engine.executor import Executor
from jaxserve.text import deadline
from jaxserve.weights import safetensors
from scripts.reliability_checks.damaged_models import write_sound
from server import cli
from tests.models.tiny import write
from tests.weights import tiny

PORT_0 = ("--host", "127.0.0.1", "--port", "0")
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


class SlowWork(Exception):
    """The small files were accepted."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound"), "llama", seed=3)


@pytest.fixture(scope="module")
def start() -> Callable[[Path], tuple[int, str]]:
    """Start with a model directory, without weights and programs. The exit code, 0 if it went on, and what it said."""

    def forbidden(*_: object, **__: object) -> None:
        raise SlowWork

    def start(model: Path) -> tuple[int, str]:
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                *((build_module, "load_params"), (build_module, "get_peak_rates"), (build_module, "compile_pages")),
                *((Executor, "compile"), (safetensors.SafetensorsCheckpoint, "read")),
            ):
                patch.setattr(owner, name, forbidden)
            patch.setattr("server.logs.report_startup_error", lambda error: said.append(str(error)))
            try:
                return cli.main(["serve", str(model), *PORT_0]), said[0]
            except SlowWork:
                return 0, ""

    return start


def _change(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        path = model / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | changes))

    return change


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda model: (model / file).write_bytes(content) and None


def _pipe(file: str) -> Callable[[Path], None]:
    def pipe(model: Path) -> None:
        (model / file).unlink(missing_ok=True)
        os.mkfifo(model / file)

    return pipe


def _store_fp8(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = {name: torch.from_numpy(value) for name, value in load_file(file).items()}
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, file)
    _change("config.json", quantization_config={"quant_method": "fp8"})(model)


DAMAGE = {
    "more layers than a description can hold": _change("config.json", num_hidden_layers=10**8),
    "a size beyond all integers": _change("config.json", hidden_size=10**30),
    "architectures that are no names": _change("config.json", architectures=[1]),
    "end tokens that are an object": _change("generation_config.json", eos_token_id={"a": 1}),
    "an end token that is a text": _change("generation_config.json", eos_token_id="</s>"),
    "a generation config that is a pipe": _pipe("generation_config.json"),
    "a config that is a pipe": _pipe("config.json"),
    "a template that is a pipe": _pipe("chat_template.jinja"),
    "weights that are a pipe": _pipe("model.safetensors"),
    "a template of 5 MiB": _write("chat_template.jinja", b"a" * (5 << 20)),
    "a template of 2 MiB in another file": _change("tokenizer_config.json", chat_template="a" * (2 << 20)),
    "a template that is no UTF-8": _write("chat_template.jinja", b"{{ \xff\xfe }}"),
    "a template of 30,000 parentheses": _write("chat_template.jinja", b"{{ " + b"(" * 30_000 + b" }}"),
    "templates without names": _change("tokenizer_config.json", chat_template=[{"x": 1}]),
    "added tokens whose ids are no numbers": _change("tokenizer_config.json", added_tokens_decoder={"x": {}}),
    "half a surrogate pair as a template": _write(
        "tokenizer_config.json", json.dumps({"chat_template": "\ud800 {{ messages }}"}).encode()
    ),
    "a quantization that is not read": _change("config.json", quantization_config={"quant_method": "bitsandbytes"}),
    "a quantization of half a config": _change("config.json", quantization_config={"quant_method": "gptq"}),
    "fp8 without scales": _store_fp8,
    "a tokenizer of another kind": _write("tokenizer.json", b'{"version":"1.0","model":{"type":"BPE","vocab":{}}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_one_sentence(sound, start, tmp_path, damage) -> None:
    model = shutil.copytree(sound, tmp_path / "model")
    DAMAGE[damage](model)
    code, said = start(model)
    assert code == cli.EX_CONFIG
    assert said and "\n" not in said and len(said) < 1000
    if "template" in damage:
        assert str(model) in said


def test_a_template_that_never_ends_delays_the_start_once(sound, start, tmp_path, monkeypatch) -> None:
    model = shutil.copytree(sound, tmp_path / "model")
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (model / "chat_template.jinja").write_text(loops)
    clock = itertools.count()  # a look at it takes a second
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert start(model) == (0, "")
    assert EngineConfig().template_timeout_s < next(clock) < 2 * EngineConfig().template_timeout_s


def test_a_config_that_was_made_from_a_gguf_file_is_named_after_it(start, tmp_path) -> None:
    odd = {"llama.attention.key_length": 7, "llama.attention.value_length": 7, "llama.rope.dimension_count": 7}
    code, said = start(tiny.write_gguf(tmp_path / "odd.gguf", tiny.weights(), metadata=odd))
    assert (code, said.partition(":")[0]) == (cli.EX_CONFIG, "config.json, made from odd.gguf")


def test_a_gguf_file_without_one_of_its_tensors_is_named(sound, start, tmp_path) -> None:
    *_, file = write_sound(sound, tmp_path)
    assert start(file) == (0, "")
    content = bytearray(file.read_bytes())
    content[8:16] = (int.from_bytes(content[8:16], "little") - 1).to_bytes(8, "little")  # the number of tensors
    file.write_bytes(content)
    code, said = start(file)
    assert (code, "model.gguf" in said, "\n" in said) == (cli.EX_CONFIG, True, False)


JSON_VALUES = st.sampled_from([None, True, -1, 0, 10**9, 10**30, 1.5, "", "x", [], [1], ["x"], {}, {"x": 1}, "\ud800"])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_accepted_or_one_sentence(sound, start, tmp_path, data) -> None:
    model = tmp_path / "mutated"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(sound, model)
    path = model / data.draw(st.sampled_from([name for name in FILES if (sound / name).exists()]))
    content = json.loads(path.read_text())
    node: Any = content
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(min(len(node), 20)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(JSON_VALUES)
        break
    path.write_text(json.dumps(content))
    code, said = start(model)
    assert code in (0, cli.EX_CONFIG)
    assert "\n" not in said and len(said) < 1000


@given(st.sampled_from(FILES), st.binary(max_size=40), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_anywhere_are_accepted_or_one_sentence(sound, start, tmp_path, file, junk, place) -> None:
    model = tmp_path / "mutated"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(sound, model)
    path = model / file
    content = path.read_bytes() if path.exists() else b""
    place %= len(content) + 1
    path.write_bytes(content[:place] + junk + content[place + len(junk) :])
    code, said = start(model)
    assert code in (0, cli.EX_CONFIG)
    assert "\n" not in said and len(said) < 1000
