"""The quant_method of a checkpoint: a table of those that are read. Others are refused by name, with advice.

Sources: the config classes of AutoAWQ, AutoGPTQ, GPTQModel, AutoRound, modelopt and Quark, and transformers'
quantization_config.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.compressed_tensors import read_compressed_tensors
from jaxserve.weights.packed_form import Scheme
from jaxserve.weights.protocol import read_json
from jaxserve.weights.quantization import (
    ADVICE,
    WHERE,
    FileQuantization,
    QuantizationKeys,
    Rule,
    compile_name,
    describe_scheme,
    one_scheme,
    read_block_shape,
)

ACTIVATIONS, CACHE = "types of activations", "scales of the cache"


def _read_awq(keys: QuantizationKeys) -> FileQuantization:
    keys.skip("modules_to_not_convert backend do_fuse exllama_config fuse_max_seq_len modules_to_fuse")
    keys.skip("sym desc_act lm_head meta method pack_dtype")
    version = keys.get("version", "format", "checkpoint_format", default="gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise keys.unsupported("version", version, "'gemm'")
    keys.choose("zero_point", True, default=True)
    keys.choose("bits", 4, default=keys.choose("w_bit", 4, default=4))
    scheme = Scheme("awq", 4, (1, keys.get_size("group_size", "q_group_size", default=128)), has_zero_points=True)
    return one_scheme(f"AWQ {describe_scheme(scheme)}", scheme)


def _read_gptq(keys: QuantizationKeys) -> FileQuantization:
    keys.skip(
        "sym act_group_aware static_groups true_sequential damp_percent dataset tokenizer model_seqlen meta"
        " model_name_or_path model_file_base_name lm_head block_name_to_quantize module_name_preceding_first_block"
        " batch_size pad_token_id use_cuda_fp16 max_input_length cache_block_outputs modules_in_block_to_quantize"
        " exllama_config disable_exllama use_exllama backend quant_type mse hyb_act uncertainty mock_quantization"
        " is_marlin_format modules_to_not_convert damp_auto_increment device parallel_packing method"
    )
    keys.choose("pack_dtype", "int32", default="int32")
    keys.choose("is_marlin_format", False, default=False)
    file_format = keys.choose("checkpoint_format", "gptq", "gptq_v2", default=keys.get("format", default="gptq"))
    scheme = Scheme(
        "gptq",
        keys.get_bits("bits"),
        (1, keys.get_size("group_size", default=128)),
        has_zero_points=True,
        zero_offset=int(file_format == "gptq"),
        has_group_list=keys.choose("desc_act", True, False, default=False),
    )
    dynamic = keys.get_object("dynamic")
    rules = [rule for pattern, values in dynamic.items() for rule in _read_dynamic(pattern, values, scheme)]
    title = f"GPTQ {describe_scheme(scheme)}"
    return FileQuantization(title, (*rules, *one_scheme(title, scheme).rules))


def _read_dynamic(pattern: str, values: Any, scheme: Scheme) -> list[Rule]:
    """Return the rule of a pattern whose modules have values of their own; none for `-:`, whose modules are plain."""
    if pattern.startswith("-:"):
        return []
    where = f"{WHERE}.dynamic"
    own = QuantizationKeys(QuantizationKeys({pattern: values}, where).get_object(pattern), f"{where}.{pattern[:80]}")
    own.skip("sym damp_percent mse")
    own.choose("desc_act", scheme.has_group_list, default=scheme.has_group_list)
    group_size = own.get_size("group_size", default=scheme.block[1] or -1)
    changed = replace(scheme, bits=own.get_bits("bits", default=scheme.bits), block=(1, group_size))
    own.reject_unread()
    return [Rule(compile_name("re:" + pattern.removeprefix("+:")), changed)]


def _read_fp8(keys: QuantizationKeys) -> FileQuantization:
    """Read DeepSeek's fp8, whose blocks have scales, and AutoFP8, of which tensors and outputs have."""
    keys.skip("modules_to_not_convert ignored_layers modules_to_convert dequantize activation_scale_ub")
    unused = _list_unused(keys, keys.get("activation_scheme"), "kv_cache_scheme", "kv_cache_quant_method")
    keys.choose("fmt", "e4m3", "float8_e4m3fn", default="e4m3")
    keys.choose("scale_fmt", "float", "ue8m0", default="float")
    keys.choose("expert_dtype", "fp8", default="fp8")
    value = keys.get("weight_block_size")
    block = (None, None) if value is None else read_block_shape(keys, "weight_block_size", value)
    scheme = Scheme("fp8", 8, block)
    return one_scheme(describe_scheme(scheme), scheme, unused)


def _list_unused(keys: QuantizationKeys, activations: Any, *cache: str) -> tuple[str, ...]:
    return tuple(([ACTIVATIONS] if activations else []) + ([CACHE] if keys.get(*cache) else []))


def _read_modelopt(keys: QuantizationKeys) -> FileQuantization:
    """Read NVIDIA's modelopt: in config.json flat, in hf_quant_config.json as `quantization`."""
    keys.skip("producer")
    inner = keys.get_object("quantization")
    if inner:
        keys.reject_unread()
        keys = QuantizationKeys(inner, f"{WHERE}.quantization")
    keys.skip("quant_method config_groups exclude_modules ignore")
    for name in ("has_zero_point", "pre_quant_scale"):
        keys.choose(name, False, default=False)
    algorithm = keys.get("quant_algo")
    schemes = {
        "FP8": Scheme("fp8", 8, (None, None)),
        "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8", 8, (None, None)),
        "NVFP4": Scheme("nvfp4_bytes", 4, (1, keys.get_size("group_size", default=16) or 16)),
    }
    if algorithm not in schemes:
        raise keys.unsupported("quant_algo", algorithm, " or ".join(map(repr, schemes)))
    unused = _list_unused(keys, True, "kv_cache_quant_algo", "kv_cache_scheme")
    keys.reject_unread()
    return one_scheme(f"modelopt {describe_scheme(schemes[algorithm])}", schemes[algorithm], unused)


def _read_quark(keys: QuantizationKeys) -> FileQuantization:
    """Read AMD's Quark, whose fp8 and MXFP4 are stored as others store them."""
    keys.skip("exclude algo_config quant_mode version export")
    for name in ("layer_quant_config", "layer_type_quant_config", "softmax_quant_spec"):
        if keys.get(name):
            raise keys.unsupported(name, keys.get(name), "nothing")
    default = QuantizationKeys(keys.get_object("global_quant_config"), f"{WHERE}.global_quant_config")
    unused = _list_unused(keys, default.get("input_tensors", "output_tensors"), "kv_cache_quant_config")
    default.skip("bias target_device")
    weight = QuantizationKeys(default.get_object("weight"), f"{WHERE}.global_quant_config.weight")
    default.reject_unread()
    weight.skip(
        "ch_axis observer_cls round_method scale_type symmetric is_scale_quant mx_element_dtype zero_point_type"
    )
    weight.choose("is_dynamic", False, default=False)
    if weight.choose("dtype", "fp4", "fp8_e4m3", default="") == "fp4":
        weight.choose("qscheme", "per_group", default="per_group")
        weight.choose("scale_format", "e8m0", default="e8m0")
        scheme = Scheme("mxfp4_bytes", 4, (1, weight.get_size("group_size", default=32)))
    else:
        weight.choose("qscheme", "per_tensor", "per_channel", default="per_tensor")
        weight.skip("scale_format group_size")
        scheme = Scheme("fp8", 8, (None, None))
    weight.skip("block_size scale_calculation_mode")
    weight.reject_unread()
    return one_scheme(f"Quark {describe_scheme(scheme)}", scheme, unused)


def _read_auto_round(keys: QuantizationKeys) -> FileQuantization:
    """Read AutoRound, which stores what it rounded as AutoAWQ or AutoGPTQ do."""
    keys.skip(
        "amp autoround_version backend batch_size block_name_to_quantize dataset enable_minmax_tuning"
        " enable_norm_bias_tuning enable_quanted_input gradient_accumulate_steps iters low_cpu_mem_usage"
        " low_gpu_mem_usage lr minmax_lr not_use_best_mse nsamples quant_block_list scale_dtype seqlen sym"
        " to_quant_block_names"
    )
    keys.choose("data_type", "int", default="int")
    others = keys.get_object("extra_config")
    if not all(isinstance(each, Mapping) and each.get("bits") in (16, 32) for each in others.values()):
        raise keys.unsupported("extra_config", others, "modules of 16 bits alone")
    packing = keys.choose("packing_format", "auto_round:auto_gptq", "auto_round:auto_awq", default="")
    bits, block = keys.get_bits("bits"), (1, keys.get_size("group_size", default=128))
    if packing == "auto_round:auto_awq":
        keys.choose("bits", 4, default=4)
        scheme = Scheme("awq", 4, block, has_zero_points=True)
    else:
        scheme = Scheme("gptq", bits, block, has_zero_points=True, zero_offset=1)
    return one_scheme(f"AutoRound {describe_scheme(scheme)}", scheme)


READERS: dict[str, Callable[[QuantizationKeys], FileQuantization]] = {
    "auto-round": _read_auto_round,
    "awq": _read_awq,
    "compressed-tensors": read_compressed_tensors,
    "fbgemm_fp8": _read_fp8,
    "fp8": _read_fp8,
    "gptq": _read_gptq,
    "intel/auto-round": _read_auto_round,
    "modelopt": _read_modelopt,
    "modelopt_fp4": _read_modelopt,
    "quark": _read_quark,
}
# Files of old checkpoints beside config.json, and the method that they stand for.
OTHER_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
FAMILY_METHODS = frozenset({"mxfp4"})
"""Methods that belong to one family, whose own code reads them."""


def find_quantization(path: Path, config: Mapping[str, Any], has_words: bool) -> FileQuantization | None:
    """Return how a checkpoint is packed, None if it is not: what config.json says, or a file beside it.

    has_words: there are tensors of AWQ or GPTQ, without which the files that they left behind mean nothing.

    Raises BadCheckpoint for a method that is not read, by its name and with advice.
    """
    values = find_config(config)
    if values is None:
        for file, method in OTHER_FILES.items():
            if (has_words or method == "modelopt") and (other := read_json(path / file, missing_ok=True)):
                values = {"quant_method": method} | other
                break
        else:
            return None
    keys = QuantizationKeys(values)
    method = str(keys.get("quant_method", default=""))
    if method in FAMILY_METHODS:
        return None
    if method not in READERS:
        raise BadCheckpoint(
            f"{WHERE}: the quant_method {method[:100]!r} is not read; {ADVICE}. Read are {', '.join(READERS)}."
        )
    quantization = READERS[method](keys)
    keys.reject_unread()
    return quantization


def find_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the quantization_config of a config.json: its own, or that of its text part; None if there is none.

    Raises BadCheckpoint if it is no object.
    """
    text_config = config.get("text_config")
    for holder in (config, text_config if isinstance(text_config, Mapping) else {}):
        for name in CONFIG_KEYS:
            value = holder.get(name)
            if value is not None:
                if not isinstance(value, Mapping):
                    raise BadCheckpoint(f"config.json: {name!r} is {str(value)[:100]!r}, not an object.")
                return value
    return None


CONFIG_KEYS = ("quantization_config", "compression_config")


def without_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json as an unpacked checkpoint would have it."""
    plain = {name: value for name, value in config.items() if name not in CONFIG_KEYS}
    if isinstance(plain.get("text_config"), Mapping):
        plain["text_config"] = {name: value for name, value in plain["text_config"].items() if name not in CONFIG_KEYS}
    return plain
