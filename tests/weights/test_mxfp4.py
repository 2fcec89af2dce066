"""MXFP4: the numbers of transformers' own conversion, in parts and whole, plain and packed anew."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from jaxserve.errors import BadCheckpoint, UnknownArchitecture
from jaxserve.layers import quant
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint, load_params
from jaxserve.weights.mxfp4 import MXFP4Checkpoint
from jaxserve.weights.quantized import describe_packing
from jaxserve.weights.safetensors import SafetensorsCheckpoint
from tests.models.tiny import write
from tests.weights.counting import CountingCheckpoint

MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
NAME = "model.layers.1.mlp.experts.gate_up_proj"


def expected_of(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What transformers makes of packed experts, [experts, in, out]."""
    return convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).float().numpy()


def change(path, tensors=None, **config):
    """Write the checkpoint anew with other tensors and other keys of its config.json."""
    if tensors is not None:
        save_file(tensors, path / "model.safetensors")
    values = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(values))
    return path


@pytest.fixture
def directory(tmp_path):
    """A tiny gpt-oss whose experts are drawn as blocks and scales."""
    rng = np.random.default_rng(2)
    tensors, packed = load_file(write(tmp_path, "gpt_oss") / "model.safetensors"), {}
    for name, value in tensors.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            packed[name] = value
            continue
        num_experts, width_in, width_out = value.shape
        shape = (num_experts, width_out, width_in // 32)
        packed[f"{name}_blocks"] = rng.integers(0, 256, (*shape, 16)).astype(np.uint8)
        packed[f"{name}_scales"] = rng.integers(120, 125, shape).astype(np.uint8)
    return change(tmp_path, packed, quantization_config=MXFP4)


def test_every_code_with_every_scale_is_what_transformers_reads(directory):
    tensors = load_file(directory / "model.safetensors")
    tensors["a_blocks"] = np.arange(256 * 256 * 16).reshape(1, 256, 256, 16).astype(np.uint8)
    tensors["a_blocks"] += np.arange(256, dtype=np.uint8)[:, None]
    tensors["a_scales"] = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, 256, 256)).copy()
    checkpoint = open_checkpoint(change(directory, tensors))
    assert describe_packing(checkpoint) == {"packed in the file": "experts in MXFP4"}
    values = checkpoint.read("a")
    assert values.dtype == ml_dtypes.bfloat16 and values.shape == (1, 256 * 32, 256)
    with np.errstate(invalid="ignore"):
        expected = expected_of(tensors["a_blocks"], tensors["a_scales"])[:, : 255 * 32]
        np.testing.assert_array_equal(values.astype(np.float32)[:, : 255 * 32], expected)
    assert np.isnan(values[:, 255 * 32 :].astype(np.float32)).all(), "the scale that is no number"


@pytest.mark.parametrize("inputs", [slice(None), slice(32, 64), slice(5, 40), slice(63, 64)])
@pytest.mark.parametrize("outputs", [slice(None), slice(1, 192, 2), slice(10, 11)])
def test_a_part_is_that_of_the_whole_and_no_other_block_is_read(directory, inputs, outputs):
    counting = CountingCheckpoint(SafetensorsCheckpoint(directory))
    checkpoint = MXFP4Checkpoint(counting)
    whole = checkpoint.read(NAME)
    counting.num_values = 0
    part = checkpoint.read(NAME, (slice(1, 3), inputs, outputs))
    np.testing.assert_array_equal(part, whole[1:3, inputs, outputs])
    num_rows = len(range(*outputs.indices(192))) * 2
    num_blocks = len({index // 32 for index in range(*inputs.indices(64))})
    assert counting.num_values == num_rows * num_blocks * 17


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_leaves_are_those_of_the_same_checkpoint_without_packing(directory, tmp_path, quantization):
    plain = load_file(directory / "model.safetensors")
    for name in [name.removesuffix("_blocks") for name in plain if name.endswith("_blocks")]:
        plain[name] = expected_of(plain.pop(f"{name}_blocks"), plain.pop(f"{name}_scales"))
    other = write(tmp_path / "plain", "gpt_oss")
    loaded = []
    for path in (directory, change(other, plain)):
        checkpoint = open_checkpoint(path)
        architecture = registry.find_architecture(checkpoint.config)
        params = architecture.params(architecture.spec(checkpoint.config))
        check_checkpoint(checkpoint, params)
        loaded.append(load_params(checkpoint, params, registry.abstract_params(params, np.float32, quantization)))
    packed, expected = loaded
    for path, leaf in expected.items():
        left, right = (each.data if isinstance(each, quant.PackedWeight) else each for each in (packed[path], leaf))
        np.testing.assert_array_equal(left, right, err_msg=str(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(f"{NAME}_scales"), "has blocks and no scales"),
        (lambda tensors: tensors.update({NAME: np.zeros(3, np.float32)}), "is there twice"),
        (lambda tensors: tensors.update({f"{NAME}_scales": np.zeros((4, 192, 3), np.uint8)}), "should be bytes"),
        (lambda tensors: tensors.update({f"{NAME}_scales": np.zeros((4, 192, 2), np.int8)}), "should be bytes"),
    ],
)
def test_blocks_and_scales_that_do_not_fit_are_refused_by_name(directory, damage, message):
    tensors = load_file(directory / "model.safetensors")
    damage(tensors)
    with pytest.raises(BadCheckpoint, match=f"{NAME}.*{message}"):
        open_checkpoint(change(directory, tensors))


@pytest.mark.parametrize("value", [{"quant_method": "gptq"}, {}, "mxfp4", MXFP4 | {"group_size": 16}])
def test_other_quantizations_are_refused_by_name(directory, value):
    config = json.loads((directory / "config.json").read_text()) | {"quantization_config": value}
    with pytest.raises(UnknownArchitecture, match=r"quantization_config"):
        registry.find_architecture(config).spec(config)
