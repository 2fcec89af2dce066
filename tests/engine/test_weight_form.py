"""Integers of a quantised checkpoint keep their codes in memory where there are kernels; all else is plain."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from jaxserve.engine.runner import Runner
from jaxserve.engine.weight_form import choose_weight_form, describe_weight_form, find_kinds
from jaxserve.errors import BadConfig
from jaxserve.layers.scaled_weight import ScaledForm, dequantize
from jaxserve.models import registry
from jaxserve.native import library
from jaxserve.parallel.placement import Placement
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from jaxserve.weights.quantized import QuantizedCheckpoint
from tests.engine.conftest import PAGES
from tests.models.tiny import random_weights, tiny_config
from tests.weights import quantized_writer as writer

pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
LLAMA = tiny_config("llama") | {"num_hidden_layers": 1, "tie_word_embeddings": False}
INT4 = writer.Form(
    writer.compressed("pack-quantized", writer.integers(4, "group", group_size=32)), writer.words(group_size=32)
)
# A row of weights is two groups of 64 inputs, or three of down.
WIDE = LLAMA | {"hidden_size": 128, "head_dim": 32, "num_attention_heads": 4, "intermediate_size": 192}
INT4_OF_64 = writer.Form(
    writer.compressed("pack-quantized", writer.integers(4, "group", group_size=64)), writer.words(group_size=64)
)
MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "num_hidden_layers": 2}


def write(path, form: writer.Form, config=LLAMA):
    stored, _ = writer.pack(form, random_weights(config, seed=3))
    return writer.write_checkpoint(path, config | {"quantization_config": form.config}, stored)


@dataclass(frozen=True)
class Device:
    platform: str = "cpu"
    compute_capability: str = "9.0"


def choose(path, platform: str = "cpu", dtype=np.float32, capability: str = "9.0", num_devices: int = 1, **settings):
    checkpoint = open_checkpoint(path)
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    params = architecture.params(spec)
    config = EngineConfig(model=str(path), **settings)
    return choose_weight_form(
        config, checkpoint, params, spec, Placement((Device(platform, capability),) * num_devices), np.dtype(dtype)
    )


def test_a_packed_model_is_served_with_its_codes(tmp_path):
    loaded = build(
        EngineConfig(
            model=str(write(tmp_path, INT4)),
            max_model_len=64,
            max_num_seqs=1,
            max_num_batched_tokens=16,
            num_gpu_blocks_override=PAGES,
            max_logprobs=0,
        )
    )
    try:
        assert loaded.config.quantization == "int4"
        assert "int4 in 7 matrices (the codes of the file), native products" in loaded.description["weights"]
        assert loaded.description["packed in the file"] == "compressed-tensors int4 in groups of 32"
        assert isinstance(loaded.engine.runner, Runner)
        executor = loaded.engine.runner.executor
        weights = executor.table.model.weights.unpack(executor.weights)
        packed = {path for path, weight in weights.items() if hasattr(weight, "kind")}
        assert len(packed) == 7 and not any(path[-1] == "table" for path in packed)
    finally:
        loaded.engine.close()


GPU_REASON = "a gpu multiplies numbers with one scale for each output, or int4 in groups of 64 or 128 inputs"
REASONS = {
    "a gpu": (INT4, {"platform": "gpu"}, GPU_REASON),
    "act-order on a gpu": (writer.FORMS["gptq, act-order"], {"platform": "gpu"}, GPU_REASON),
    "an old gpu": (
        INT4,
        {"platform": "gpu", "capability": "7.5"},
        "a gpu multiplies numbers with one scale for each output",
    ),
    "bfloat16": (INT4, {"dtype": "bfloat16"}, "products of packed weights are computed in float32"),
    "fp8": (writer.FORMS["fp8 blocks"], {}, "what is packed in the file are not integers in order"),
    "groups within a block": (writer.FORMS["awq"], {}, "what is packed in the file are not integers in order"),
    "act-order": (writer.FORMS["gptq, act-order"], {}, "what is packed in the file are not integers in order"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_stay_packed_is_unpacked_and_says_why(case, tmp_path):
    form, where, reason = REASONS[case]
    chosen = choose(write(tmp_path, form), **where)
    assert (chosen.quantization, chosen.reason) == ("none", reason)


def test_settings_come_before_the_file(tmp_path):
    path = write(tmp_path, INT4)
    for quantization in ("none", "int8", "int4"):
        chosen = choose(path, quantization=quantization)
        assert (chosen.quantization, chosen.kinds) == (quantization, None)


def test_plain_checkpoints_stay_plain(tmp_path):
    chosen = choose(writer.write_checkpoint(tmp_path, LLAMA, random_weights(LLAMA, seed=3)))
    assert (chosen.quantization, chosen.reason) == ("none", "")


def test_experts_are_packed_beside_a_router_that_is_not(tmp_path):
    config = tiny_config("qwen3_moe") | MOE
    checkpoint = open_checkpoint(write(tmp_path, INT4, config))
    assert isinstance(checkpoint, QuantizedCheckpoint)
    architecture = registry.find_architecture(config)
    kinds = find_kinds(checkpoint, architecture.params(architecture.spec(config)))
    assert {path[2:] for path in kinds if path[2] == "mlp" and path[1] == 1} == {
        ("mlp", "experts", name) for name in ("gate", "up", "down")
    }
    assert ("layers", 1, "attention", "query", "kernel") in kinds


def test_weights_of_one_call_are_packed_together_or_not_at_all(tmp_path):
    """A checkpoint may leave one projection plain, and its neighbours in the call are unpacked for it."""
    weights = random_weights(LLAMA, seed=3)
    stored, _ = writer.pack(INT4, {name: value for name, value in weights.items() if "v_proj" not in name})
    stored |= {name: value for name, value in weights.items() if "v_proj" in name}
    path = writer.write_checkpoint(tmp_path, LLAMA | {"quantization_config": INT4.config}, stored)
    chosen = choose(path)
    assert chosen.kinds is not None
    assert {name[2] for name in chosen.kinds} == {"mlp"}


FORMS = {
    ("tpu", "int8"): "int8 with a scale for each output, products by XLA",
    ("tpu", "int4"): "int4 with a scale for each group of inputs, tables int8, products by XLA",
    ("gpu", "int4"): "int4 with a scale for each group of inputs, tables int8, products by a kernel",
    ("gpu", "fp8"): "fp8 with a scale for each output, activations in fp8, products by XLA",
}


@pytest.mark.parametrize(("platform", "kind"), FORMS)
def test_accelerators_have_forms_of_their_own(platform, kind, tmp_path):
    path = write(tmp_path, INT4)
    chosen = choose(path, platform, "bfloat16", quantization=kind)
    assert describe_weight_form(chosen) == FORMS[platform, kind]


GPTQ = writer.GPTQ | {"sym": True, "group_size": 64}
INT4_FORMS = {
    "groups of 64": INT4_OF_64,
    "one group": writer.Form(
        writer.compressed("pack-quantized", writer.integers(4, "channel")), writer.words(group_size=None)
    ),
    "gptq": writer.Form(GPTQ, writer.gptq(symmetric=True, group_size=64)),
    "zero points": writer.Form(
        writer.compressed("pack-quantized", writer.integers(4, "group", False, group_size=64)),
        writer.words(symmetric=False, group_size=64),
    ),
    "awq": writer.Form(writer.FORMS["awq"].config | {"group_size": 64}, partial(writer.awq, group_size=64)),
}


@pytest.mark.parametrize("form", INT4_FORMS)
def test_a_gpu_multiplies_int4_of_the_file_by_its_kernel(form, tmp_path):
    check_numbers_are_kept(write(tmp_path, INT4_FORMS[form], WIDE), "int4", "gpu")


def test_int4_of_which_a_device_s_part_is_no_whole_groups_is_unpacked(tmp_path):
    """Half of down's inputs are one and a half groups; the other six matrices stay packed."""
    chosen = choose(write(tmp_path, INT4_OF_64, WIDE), "gpu", "bfloat16", num_devices=2)
    assert chosen.kinds and len(chosen.kinds) == 6 and not any("down" in path for path in chosen.kinds)


@pytest.mark.parametrize("form", ["fp8 of whole tensors", "fp8 outputs, compressed-tensors", "fp8, modelopt"])
def test_an_accelerator_multiplies_the_floats_of_the_file(form, tmp_path):
    check_numbers_are_kept(write(tmp_path, writer.FORMS[form]), "fp8")


@pytest.mark.parametrize("form", ["int8", "int8 words", "int8 of whole tensors"])
def test_an_accelerator_multiplies_the_integers_of_the_file(form, tmp_path):
    check_numbers_are_kept(write(tmp_path, writer.FORMS[form]), "int8")


def check_numbers_are_kept(path, kind: str, platform: str = "tpu") -> None:
    checkpoint, chosen = open_checkpoint(path), choose(path, platform, "bfloat16")
    assert chosen.kinds and set(chosen.kinds.values()) == {kind}
    scales, products = ("group of inputs", "a kernel") if kind == "int4" else ("output", "XLA")
    assert describe_weight_form(chosen) == (
        f"{kind} in 7 matrices with a scale for each {scales} (the numbers of the file), products by {products}"
    )
    architecture = registry.find_architecture(checkpoint.config)
    params = architecture.params(architecture.spec(checkpoint.config))
    shapes = registry.abstract_params(params, "bfloat16", chosen.quantization, chosen.kinds, chosen.scaled)
    weights = load_params(checkpoint, params, shapes)
    for leaf in chosen.kinds:
        expected = params[leaf].choose_origin(checkpoint.tensors).read(checkpoint.read)
        np.testing.assert_allclose(dequantize(weights[leaf]), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["int8 with zero points", "fp8 blocks"])
def test_numbers_with_other_scales_are_unpacked_on_an_accelerator(form, tmp_path):
    chosen = choose(write(tmp_path, writer.FORMS[form]), "tpu", "bfloat16")
    assert (chosen.quantization, chosen.reason) == ("none", "a tpu multiplies numbers with one scale for each output")


def test_activations_are_rounded_where_fp8_is_multiplied_as_it_is(tmp_path):
    path = write(tmp_path, INT4)
    assert choose(path, "gpu", "bfloat16", quantization="fp8").scaled == ScaledForm(rounds_activations=True)
    assert choose(path, "tpu", "bfloat16", quantization="fp8").scaled == ScaledForm(rounds_activations=False)


def test_fp8_that_a_gpu_would_unpack_in_every_step_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"quantization='fp8' needs a gpu of compute capability 9\.0 or later"):
        choose(write(tmp_path, INT4), "gpu", "bfloat16", capability="8.9", quantization="fp8")


@pytest.mark.parametrize("capability", ["7.5", "0", "gfx90a"])
def test_quantizations_that_an_old_or_unknown_gpu_has_no_instructions_for_are_refused(tmp_path, capability):
    path = write(tmp_path, INT4)
    with pytest.raises(BadConfig, match=r"'int4' needs a gpu of compute capability 8\.0 or later; .* try int8\."):
        choose(path, "gpu", "bfloat16", capability=capability, quantization="int4")
    with pytest.raises(BadConfig, match=r"'fp8' needs .* try int8\."):
        choose(path, "gpu", "bfloat16", capability=capability, quantization="fp8")
    assert choose(path, "gpu", "bfloat16", capability=capability, quantization="int8").scaled == ScaledForm()
    assert choose(path, "gpu", "bfloat16", capability="8.0", quantization="int4").scaled == ScaledForm(has_kernel=True)


def test_fp8_of_a_file_is_unpacked_once_where_it_has_no_products(tmp_path):
    path = write(tmp_path, writer.FORMS["fp8 of whole tensors"])
    older = choose(path, "gpu", "bfloat16", capability="8.9")
    assert (older.quantization, older.reason) == ("none", "a gpu multiplies fp8 from compute capability 9.0 on")
    assert choose(path, "gpu", "bfloat16").quantization == "fp8"


def test_what_has_no_products_is_refused_with_what_has(tmp_path):
    with pytest.raises(BadConfig, match="quantization='blocks' has no products on a gpu; try int8 or fp8 or int4"):
        choose(write(tmp_path, INT4), "gpu", "bfloat16", quantization="blocks")
