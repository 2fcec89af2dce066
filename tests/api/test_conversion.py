"""convert_model: what it writes is served as its source is, bit for bit, and it writes all of it or nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve import BadCheckpoint, BadConfig, StartupError, conversion, convert_model
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import open_model
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.weights import safetensors_writer
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests.models.tiny import FAMILIES, random_weights, tiny_config, write
from tests.weights import gguf_writer
from tests.weights import quantized_writer as writer

# One family for each way in which checkpoints arrange weights: fused, by head, interleaved, stacked, transposed.
ARRANGEMENTS = ("llama", "phi3", "gpt_neox", "gpt_oss", "qwen3_moe", "qwen3_next", "deepseek_v3", "granitemoehybrid")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "model", "llama", seed=3)


def served(path: Path, **settings: Any) -> dict:
    """The weights as an engine has them, and how it describes them."""
    model = open_model(EngineConfig(model=str(path), **settings), None, None, None)
    return load_params(model.checkpoint, model.leaves, model.shapes)


def assert_same(first: dict, second: dict) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("quantization", ["auto", "none", "int8", "int4"])
def test_converted_is_served_as_the_source_with_the_same_flags(source, tmp_path, quantization):
    convert_model(str(source), tmp_path / "to", quantization=quantization)
    expected = served(source, quantization=quantization)
    assert_same(served(tmp_path / "to"), expected)
    assert_same(served(tmp_path / "to", quantization=quantization), expected)


def test_codes_of_a_quantised_checkpoint_are_kept(tmp_path):
    form = writer.Form(
        writer.compressed("pack-quantized", writer.integers(4, "group", group_size=32)), writer.words(group_size=32)
    )
    config = tiny_config("llama")
    stored, _ = writer.pack(form, random_weights(config, seed=3))
    source = writer.write_checkpoint(tmp_path / "source", config | {"quantization_config": form.config}, stored)
    assert convert_model(str(source), tmp_path / "to").num_packed == 7 * config["num_hidden_layers"]
    assert_same(served(tmp_path / "to"), served(source))
    assert_same(served(tmp_path / "to", quantization="none"), served(source, quantization="none"))


@pytest.mark.parametrize("quantization", ["auto", "none", "int8"])
def test_blocks_of_a_gguf_file_are_taken_as_they_are(source, tmp_path, quantization, monkeypatch):
    checkpoint = open_checkpoint(source)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    file = gguf_writer.write(tmp_path / "a.gguf", checkpoint.config, tensors, kind=Kind.Q8_0)
    monkeypatch.setattr(conversion, "write_tokenizer", lambda model, directory: None)  # the file has none
    convert_model(str(file), tmp_path / "to", quantization=quantization)
    assert_same(served(tmp_path / "to", quantization=quantization), served(file, quantization=quantization))


@pytest.mark.parametrize("family", ARRANGEMENTS)
def test_leaves_are_turned_back_into_the_tensors_they_came_from(tmp_path, family):
    check_round_trip(tmp_path, family)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ARRANGEMENTS)))
def test_leaves_of_every_other_family_are_turned_back(tmp_path, family):
    check_round_trip(tmp_path, family)


def check_round_trip(tmp_path: Path, family: str) -> None:
    source = write(tmp_path / "source", family, seed=3)
    convert_model(str(source), tmp_path / "leaves")
    assert convert_model(str(tmp_path / "leaves"), tmp_path / "safetensors").format == "safetensors"
    first, second = open_checkpoint(source), open_checkpoint(tmp_path / "safetensors")
    assert second.config == first.config
    for name, info in second.tensors.items():
        assert info == first.tensors[name]
        np.testing.assert_array_equal(second.read(name), first.read(name))
    assert_same(served(tmp_path / "safetensors"), served(source))


def test_packed_leaves_become_safetensors_of_their_values(source, tmp_path):
    convert_model(str(source), tmp_path / "int8", quantization="int8")
    convert_model(str(tmp_path / "int8"), tmp_path / "safetensors", dtype="bfloat16")
    packed, plain = open_checkpoint(tmp_path / "int8"), open_checkpoint(tmp_path / "safetensors")
    value_IO = packed.read("layers.0.mlp.up.kernel")
    expected_OI = value_IO.T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(plain.read("model.layers.0.mlp.up_proj.weight"), expected_OI)


def test_large_safetensors_are_several_files_with_an_index(source, tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "MAX_FILE_BYTES", 100_000)
    convert_model(str(source), tmp_path / "to", format="safetensors")
    assert len(list((tmp_path / "to").glob("model-*.safetensors"))) > 2
    assert_same(served(tmp_path / "to"), served(source))


def test_types_are_kept_or_those_asked_for(source, tmp_path):
    convert_model(str(source), tmp_path / "narrow", dtype="bfloat16")
    convert_model(str(tmp_path / "narrow"), tmp_path / "kept")
    assert {info.dtype for info in open_checkpoint(tmp_path / "kept").tensors.values()} == {
        np.dtype(ml_dtypes.bfloat16)
    }
    assert_same(served(tmp_path / "kept", dtype="bfloat16"), served(source, dtype="bfloat16"))


def test_tokenizer_template_and_configs_are_there(source, tmp_path):
    (source / "additional_chat_templates").mkdir(exist_ok=True)
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    convert_model(str(source), tmp_path / "to")
    first, second = Tokenizer.load(source), Tokenizer.load(tmp_path / "to")
    assert first.chat_templates == second.chat_templates and "tool_use" in second.chat_templates
    assert first.backend.to_str() == second.backend.to_str()
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "to" / name).read_text()) == json.loads((source / name).read_text())


def test_a_destination_that_is_not_empty_is_refused_and_left_alone(source, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("x")
    with pytest.raises(BadConfig, match=r"to is there and not an empty directory"):
        convert_model(str(source), tmp_path / "to")
    assert [file.name for file in tmp_path.rglob("*")] == ["to", "mine"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StartupError, match=r"takes 0\.07 GB and .* has 0\.00 GB free"):
        convert_model(str(source), tmp_path / "to")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["orbax", "safetensors"])
def test_what_fails_half_way_leaves_nothing_behind(source, tmp_path, format, monkeypatch):
    def fail(*step: Any) -> None:
        raise BadCheckpoint("a tensor went away")

    with pytest.raises(BadCheckpoint, match="went away"):
        convert_model(str(source), tmp_path / "to", format=format, progress=fail)
    assert not list(tmp_path.iterdir())


def test_fp8_is_for_serving(source, tmp_path):
    with pytest.raises(BadConfig, match="convert without it, serve with it"):
        convert_model(str(source), tmp_path / "to", quantization="fp8")


def test_packed_safetensors_are_refused(source, tmp_path):
    with pytest.raises(BadConfig, match="safetensors are not packed"):
        convert_model(str(source), tmp_path / "a.safetensors", quantization="int8")
