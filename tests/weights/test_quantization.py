"""What quantization_config may say, and what is refused, by name, before anything is read."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.quantized import QuantizedCheckpoint
from tests.weights import quantized_writer as writer
from tests.weights import tiny
from tests.weights.quantized_writer import FORMS

STEM = "model.layers.0.mlp.up_proj"
NAME = f"{STEM}.weight"
MATRIX = np.random.default_rng(3).standard_normal((32, 64), np.float32)


def opened(path, quantization: Any, tensors: writer.Tensors):
    config = tiny.config() | ({} if quantization is None else {"quantization_config": quantization})
    return open_checkpoint(writer.write_checkpoint(path, config, tensors))


def refusal(path, quantization: Any, tensors: writer.Tensors) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        opened(path, quantization, tensors)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def form_config(name: str, **changes: Any) -> dict[str, Any]:
    return FORMS[name].config | changes


def changed_weights(name: str, **changes: Any) -> dict[str, Any]:
    """A config of compressed-tensors with other values for the weights of its group."""
    config = json.loads(json.dumps(FORMS[name].config))
    config["config_groups"]["group_0"]["weights"] |= changes
    return config


METHODS = ("bitsandbytes", "hqq", "quip", "aqlm", "torchao", "exl3", "vptq", "bitnet")
CONFIGS: dict[str, tuple[Any, str]] = {
    **{name: ({"quant_method": name}, f"the quant_method '{name}' is not read") for name in METHODS},
    "no method": ({"bits": 4}, "the quant_method '' is not read"),
    "a method that is a list": ({"quant_method": ["awq"]}, "is not read"),
    "no object": ("awq", "'quantization_config' is 'awq', not an object"),
    "AWQ of another layout": (form_config("awq", version="gemv"), "'version' is 'gemv'; read is 'gemm'"),
    "AWQ of 3 bits": (form_config("awq", bits=3), "'bits' is '3'; read is 4"),
    "AWQ without zero points": (form_config("awq", zero_point=False), "'zero_point' is 'False'"),
    "GPTQ of 3 bits": (form_config("gptq", bits=3), "'bits' is '3'; read is 2, 4 or 8"),
    "GPTQ for one kernel": (form_config("gptq", checkpoint_format="marlin"), "'checkpoint_format' is 'marlin'"),
    "GPTQ with a rotation": (form_config("gptq", rotation="hadamard"), "the key 'rotation' (value 'hadamard')"),
    "GPTQ with an odd group": (form_config("gptq", group_size="16"), "'group_size' is '16'; read is a whole number"),
    "fp8 of another kind": (FORMS["fp8 blocks"].config | {"fmt": "e5m2"}, "'fmt' is 'e5m2'"),
    "fp8 blocks of one number": (FORMS["fp8 blocks"].config | {"weight_block_size": [128]}, "read is two numbers"),
    "a sparse model": (form_config("int8", sparsity_config={"format": "sparse-24-bitmask"}), "'sparse-24-bitmask'"),
    "a transformed model": (form_config("int8", transform_config={"config_groups": {"u": {}}}), "'config_groups'"),
    "another format": (form_config("int8", format="marlin-24"), "'format' is 'marlin-24'; read is 'pack-quantized'"),
    "dynamic weights": (changed_weights("int8", dynamic=True), "'dynamic' is 'True'"),
    "another strategy": (changed_weights("int8", strategy="attn_head"), "'strategy' is 'attn_head'"),
    "asymmetric floats": (changed_weights("fp8 blocks, compressed-tensors", symmetric=False), "'symmetric' is 'False'"),
    "a key that is not known": (changed_weights("int8", lookup="table"), "the key 'lookup' (value 'table')"),
    "a target that is no pattern": (form_config("int8", ignore=["re:("]), "the pattern 're:(' is not valid"),
    "modelopt's AWQ": (form_config("nvfp4, modelopt", quant_algo="W4A16_AWQ"), "'quant_algo' is 'W4A16_AWQ'"),
    "Quark's integers": ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int4"}}}, "'int4'"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_understood_is_refused_by_name(name, tmp_path):
    quantization, reason = CONFIGS[name]
    assert reason in refusal(tmp_path, quantization, {"model.norm.weight": np.ones(4, np.float32)})


def test_a_refused_method_comes_with_advice(tmp_path):
    said = refusal(tmp_path, {"quant_method": "bitsandbytes"}, {"a": np.ones(1, np.float32)})
    assert "take the unpacked checkpoint and pack it with --quantization int8 or int4, or take a .gguf file" in said
    assert "Read are auto-round, awq, compressed-tensors" in said


def drop(suffix: str) -> Callable[[writer.Tensors], None]:
    def change(tensors: writer.Tensors) -> None:
        del tensors[STEM + suffix]

    return change


def put(suffix: str, value: Any) -> Callable[[writer.Tensors], None]:
    return lambda tensors: tensors.update({STEM + suffix: np.asarray(value)})


DAMAGE: dict[str, tuple[str, Callable[[writer.Tensors], None], str]] = {
    "no scales": ("awq", drop(".scales"), f"lacks tensor '{STEM}.scales'"),
    "no scale of fp8": ("fp8 blocks", drop(".weight_scale_inv"), f"lacks tensor '{NAME}_scale_inv'"),
    "no global scale": ("nvfp4, modelopt", drop(".weight_scale_2"), f"lacks tensor '{NAME}_scale_2'"),
    "no shape": ("int4 words", drop(".weight_shape"), f"lacks tensor '{NAME}_shape'"),
    "no zero points": ("int4 words with zero points", drop(".weight_zero_point"), "it has no zeros"),
    "no list of groups": ("gptq, act-order", drop(".g_idx"), "it has no group_of_input"),
    "scales of another shape": ("gptq", put(".scales", np.ones((4, 31), np.float16)), "scales have shape (4, 31)"),
    "blocks of another size": ("fp8 blocks", put(".weight_scale_inv", np.ones((1, 1), np.float32)), "not (2, 3)"),
    "a shape that does not fit": ("int4 words", put(".weight_shape", np.array([32, 99])), "its shape is (32, 99)"),
    "codes of another type": ("awq", put(".qweight", np.ones((64, 4), np.int64)), "it is int64, not int32"),
    "codes of three axes": ("gptq", put(".qweight", np.ones((2, 4, 4), np.int32)), "not that of a matrix"),
    "both packed and plain": ("awq", put(".weight", MATRIX), "is there packed and as it is"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_parts_that_do_not_fit_are_named(name, tmp_path):
    form, damage, reason = DAMAGE[name]
    tensors, _ = FORMS[form].write(STEM, MATRIX)
    damage(tensors)
    assert reason in refusal(tmp_path, FORMS[form].config, tensors)


def test_groups_that_are_not_whole_are_refused(tmp_path):
    tensors, _ = FORMS["awq"].write(STEM, MATRIX)
    assert "its 64 inputs are no whole groups of 48" in refusal(tmp_path, form_config("awq", group_size=48), tensors)


def test_a_group_that_is_not_there_is_found_when_it_is_read(tmp_path):
    tensors, _ = FORMS["gptq, act-order"].write(STEM, MATRIX)
    tensors[f"{STEM}.g_idx"][7] = 4
    checkpoint = opened(tmp_path, FORMS["gptq, act-order"].config, tensors)
    with pytest.raises(BadCheckpoint, match="an input is in a group beyond its 4"):
        checkpoint.read(NAME)


def test_what_the_config_leaves_plain_must_be_plain(tmp_path):
    tensors, _ = FORMS["int8"].write(STEM, MATRIX)
    quantization = form_config("int8", ignore=["lm_head", r"re:.*\.mlp\..*"])
    assert f"says that '{STEM}' is not packed, but it is" in refusal(tmp_path, quantization, tensors)


def test_a_packed_module_that_no_group_targets_is_refused(tmp_path):
    tensors, _ = FORMS["int8"].write(STEM, MATRIX)
    quantization = json.loads(json.dumps(FORMS["int8"].config))
    quantization["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*"]
    assert f"does not say how '{STEM}' is packed" in refusal(tmp_path, quantization, tensors)


def test_each_module_has_the_scheme_of_its_group(tmp_path):
    """A name comes before a pattern, a pattern before a class."""
    forms = {
        "model.layers.0.mlp.down_proj": ("int8 words", ["model.layers.0.mlp.down_proj"]),
        "model.layers.0.mlp.up_proj": ("fp8 blocks, compressed-tensors", ["re:.*mlp.*"]),
        "model.layers.0.self_attn.q_proj": ("int4 words", ["Linear"]),
    }
    tensors: writer.Tensors = {}
    expected, groups = {}, {}
    for number, (stem, (name, targets)) in enumerate(sorted(forms.items(), reverse=True)):
        own = FORMS[name].config
        groups[f"group_{number}"] = own["config_groups"]["group_0"] | {"targets": targets, "format": own["format"]}
        written, expected[f"{stem}.weight"] = FORMS[name].write(stem, MATRIX)
        tensors |= written
    quantization = writer.compressed("mixed-precision", {}) | {"config_groups": groups}
    checkpoint = opened(tmp_path, quantization, tensors)
    for name, values in expected.items():
        np.testing.assert_allclose(checkpoint.read(name), values, rtol=1e-6)


def test_gptqmodel_may_give_modules_bits_of_their_own(tmp_path):
    tensors, expected = writer.gptq(bits=8, group_size=32)(STEM, MATRIX)
    dynamic = {r"-:.*self_attn.*": {}, r"+:.*\.0\.mlp\..*": {"bits": 8, "group_size": 32}}
    checkpoint = opened(tmp_path, writer.GPTQ | {"dynamic": dynamic}, tensors)
    np.testing.assert_allclose(checkpoint.read(NAME), expected, rtol=1e-6)


FILES = {
    "quantize_config.json": ("gptq", {"bits": 4, "group_size": 16, "desc_act": False, "sym": False}),
    "quant_config.json": ("awq", {"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"}),
    "hf_quant_config.json": (
        "nvfp4, modelopt",
        {
            "producer": {"name": "modelopt", "version": "0.29.0"},
            "quantization": {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8"},
        },
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_files_beside_the_config_of_old_checkpoints_are_read(file, tmp_path):
    form, content = FILES[file]
    tensors, expected = FORMS[form].write(STEM, MATRIX)
    (tmp_path / file).write_text(json.dumps(content))
    np.testing.assert_allclose(opened(tmp_path, None, tensors).read(NAME), expected, rtol=1e-6)


def test_a_file_that_was_left_beside_plain_weights_means_nothing(tmp_path):
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 3}))
    assert not isinstance(opened(tmp_path, None, {NAME: MATRIX}), QuantizedCheckpoint)


@pytest.mark.parametrize(
    ("packing", "form"), [("auto_round:auto_gptq", "gptq"), ("auto_round:auto_awq", "awq"), ("auto_round:other", None)]
)
def test_auto_round_stores_what_others_read(packing, form, tmp_path):
    quantization = {"quant_method": "auto-round", "bits": 4, "group_size": 16, "packing_format": packing}
    tensors, expected = FORMS[form or "gptq"].write(STEM, MATRIX)
    if form is None:
        assert "'packing_format' is 'auto_round:other'" in refusal(tmp_path, quantization, tensors)
        return
    np.testing.assert_allclose(opened(tmp_path, quantization, tensors).read(NAME), expected, rtol=1e-6)


def test_what_is_said_of_activations_and_cache_is_not_used(tmp_path):
    tensors, _ = FORMS["int8"].write(STEM, MATRIX)
    tensors[f"{STEM}.input_scale"] = np.ones(1, np.float32)
    tensors["model.layers.0.self_attn.k_scale"] = np.ones(1, np.float32)
    checkpoint = opened(tmp_path, FORMS["int8"].config, tensors)
    assert list(checkpoint.tensors) == [NAME]
    assert isinstance(checkpoint, QuantizedCheckpoint)
    assert checkpoint.unused == ("scales of activations", "scales of the cache")
