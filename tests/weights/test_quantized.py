"""Quantised checkpoints: every form has the values of its documentation, whole, in parts, and repacked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations import finegrained_fp8

from jaxserve.layers import quant
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Origin, ParamSpec, Source
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests.weights import quantized_writer as writer
from tests.weights import tiny
from tests.weights.quantized_writer import FORMS

DATA = Path(__file__).parents[1] / "data"
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(params=FORMS)
def opened(request, tmp_path):
    """An opened checkpoint with one packed matrix, [48, 96], and its values."""
    form = FORMS[request.param]
    matrix = np.random.default_rng(3).standard_normal((48, 96), np.float32)
    tensors, values = form.write(NAME.removesuffix(".weight"), matrix)
    config = tiny.config() | {"quantization_config": form.config}
    return open_checkpoint(writer.write_checkpoint(tmp_path, config, tensors)), values


def test_values_are_those_that_the_form_stands_for(opened):
    checkpoint, values = opened
    assert list(checkpoint.tensors) == [NAME]
    assert checkpoint.tensors[NAME].shape == values.shape
    assert "quantization_config" not in checkpoint.config
    np.testing.assert_allclose(checkpoint.read(NAME), values, rtol=1e-6)


def test_parts_are_parts_of_the_whole(opened, monkeypatch):
    checkpoint, _ = opened
    whole = checkpoint.read(NAME)
    monkeypatch.setattr("jaxserve.weights.quantized.SLAB_VALUES", 700)
    for part in (
        (slice(0, 48), slice(0, 96)),
        (slice(5, 31), slice(0, 96)),
        (slice(0, 48), slice(32, 64)),
        (slice(7, 8), slice(13, 77)),
        (slice(1, 48, 2), slice(0, 96)),
        (slice(20, 20), slice(0, 96)),
    ):
        np.testing.assert_array_equal(checkpoint.read(NAME, part), whole[part], err_msg=str(part))


GOLDENS = {
    "pack-quantized/int4": writer.integers(4, "group", group_size=32),
    "pack-quantized/int4 with zero points": writer.integers(4, "group", False, group_size=32),
    "pack-quantized/int8": writer.integers(8, "channel"),
    "int-quantized/int8": writer.integers(8, "channel"),
    "int-quantized/int8 with zero points": writer.integers(8, "channel", False),
    "float-quantized/fp8": writer.floats(8, "channel"),
    "float-quantized/fp8 in blocks": writer.floats(8, "block", block_structure=[16, 32]),
    "nvfp4-pack-quantized/nvfp4": writer.floats(4, "tensor_group", group_size=16),
    "mxfp4-pack-quantized/mxfp4": writer.floats(4, "group", group_size=32),
    "awq/awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
}


@pytest.mark.parametrize("case", GOLDENS)
def test_values_are_those_of_compressed_tensors(case, tmp_path):
    """Packed and unpacked by compressed-tensors 0.20.1; for AWQ by its converter of random words."""
    stored = load_file(DATA / "goldens/compressed_tensors.safetensors")
    tensors = {f"m.{name.rpartition('.')[2]}": value for name, value in stored.items() if name.startswith(f"{case}.")}
    expected = tensors.pop("m.values")
    file_format, quantization = case.partition("/")[0], GOLDENS[case]
    if file_format != "awq":
        quantization = writer.compressed(file_format, quantization)
    checkpoint = open_checkpoint(writer.write_torch(tmp_path, {"quantization_config": quantization}, tensors))
    values = torch.from_numpy(checkpoint.read("m.weight")).to(expected.dtype)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-9)


def test_fp8_blocks_are_unpacked_as_transformers_does(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((40, 72), np.float32)
    tensors, _ = writer.fp8((16, 32))("m", matrix)
    config = {"quantization_config": writer.FP8 | {"weight_block_size": [16, 32]}}
    checkpoint = open_checkpoint(writer.write_checkpoint(tmp_path, config, tensors))
    code, scale = map(writer.to_torch, tensors.values())
    expected = finegrained_fp8._dequantize_fp8_weight(code, scale, [16, 32], torch.float32)
    torch.testing.assert_close(torch.from_numpy(checkpoint.read("m.weight")), expected)


BLOCKS: dict[str, tuple[dict[str, Any], writer.Writer, PackedKind]] = {
    "int4 words": (
        writer.compressed("pack-quantized", writer.integers(4, "group", group_size=32)),
        writer.words(group_size=32),
        "int4",
    ),
    "int4 of whole outputs": (
        writer.compressed("pack-quantized", writer.integers(4, "channel")),
        writer.words(group_size=None),
        "int4",
    ),
    "gptq": (writer.GPTQ | {"group_size": 64}, writer.gptq(group_size=64), "int4"),
    "gptq, symmetric, 8 bits": (
        writer.GPTQ | {"group_size": 64, "bits": 8},
        writer.gptq(group_size=64, bits=8, symmetric=True),
        "int8",
    ),
    "int8": (writer.compressed("int-quantized", writer.integers(8, "channel")), writer.int8(), "int8"),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_integers_are_packed_with_their_own_codes(case, tmp_path):
    """Only scales and minima are rounded, to float16: an eleventh of the bits of a code's step."""
    config, write, kind = BLOCKS[case]
    matrix = np.random.default_rng(3).standard_normal((48, 128), np.float32)
    tensors, values = write("m", matrix)
    checkpoint = open_checkpoint(writer.write_checkpoint(tmp_path, {"quantization_config": config}, tensors))
    param = ParamSpec((128, 48), (None, None), (Origin((Source("m.weight", (48, 128), None, True),)),), True)
    target = quant.abstract_packed(kind, 128, 48, native=False)
    loaded = load_params(checkpoint, {("m", "kernel"): param}, {("m", "kernel"): target})["m", "kernel"]
    assert isinstance(loaded, quant.PackedWeight)
    np.testing.assert_allclose(quant.unpack(loaded).T, values, atol=np.abs(values).max() / 2000)


def test_what_the_packed_form_cannot_hold_is_packed_anew(tmp_path):
    tensors, values = writer.gptq(act_order=True, group_size=32)(
        "m", np.random.default_rng(3).standard_normal((48, 128), np.float32)
    )
    config = {"quantization_config": writer.GPTQ | {"group_size": 32, "desc_act": True}}
    checkpoint = open_checkpoint(writer.write_checkpoint(tmp_path, config, tensors))
    assert checkpoint.read_blocks("m.weight", "int4") is None
    np.testing.assert_allclose(checkpoint.read("m.weight"), values, rtol=1e-6)
