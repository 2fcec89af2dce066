"""quantization_config of compressed-tensors: groups of modules, each with its scheme and format.

Source: compressed-tensors' QuantizationConfig, QuantizationArgs and `match_targets`: a name comes before a pattern, and
a pattern before a class.
"""

from collections.abc import Iterable
from typing import Any

from jaxserve.weights.packed_form import Scheme
from jaxserve.weights.quantization import (
    EVERY_MODULE,
    WHERE,
    FileQuantization,
    QuantizationKeys,
    Rule,
    compile_name,
    describe_scheme,
    read_block_shape,
)

INTEGER_FORMS = {"pack-quantized": "words", "int-quantized": "int8", "naive-quantized": "int8"}
FLOAT_FORMS = {"float-quantized": "fp8", "naive-quantized": "fp8", "mxfp8-quantized": "fp8"}
FLOAT4_FORMS = {"nvfp4-pack-quantized": "nvfp4", "mxfp4-pack-quantized": "mxfp4"}
FORMATS = tuple(dict.fromkeys((*INTEGER_FORMS, *FLOAT_FORMS, *FLOAT4_FORMS)))


def read_compressed_tensors(keys: QuantizationKeys) -> FileQuantization:
    """Return the schemes of all groups. Raises BadCheckpoint for sparse, transformed and unknown ones."""
    keys.skip("quantization_status global_compression_ratio version")
    sparsity = QuantizationKeys(keys.get_object("sparsity_config"), f"{WHERE}.sparsity_config")
    sparsity.choose("format", "dense", default="dense")
    transforms = QuantizationKeys(keys.get_object("transform_config"), f"{WHERE}.transform_config")
    transforms.reject_unread()
    default_format = keys.get("format", default="")
    unused = ["scales of the cache"] if keys.get("kv_cache_scheme") else []
    rules: list[tuple[int, Rule]] = []
    titles: list[str] = []
    groups = QuantizationKeys(keys.get_object("config_groups"), f"{WHERE}.config_groups")
    for name in groups.values:
        where = f"{WHERE}.config_groups.{name}"
        group = QuantizationKeys(groups.get_object(name), where)
        if group.get("input_activations") or group.get("output_activations"):
            unused.append("types of activations")
        targets, values = group.get_names("targets"), group.get_object("weights")
        file_format = group.get("format", default=default_format)
        group.reject_unread()
        if values and file_format != "dense":
            scheme = read_scheme(QuantizationKeys(values, f"{where}.weights"), file_format)
            rules += rank_targets(targets, scheme)
            titles.append(describe_scheme(scheme))
    ignored = tuple(compile_name(name) for name in keys.get_names("ignore"))
    ranked = tuple(rule for _, rule in sorted(rules, key=lambda item: item[0]))
    title = ", ".join(dict.fromkeys(titles))
    return FileQuantization(f"compressed-tensors {title}", ranked, ignored, tuple(dict.fromkeys(unused)))


def read_scheme(keys: QuantizationKeys, file_format: str) -> Scheme:
    """Return how the weights of a group are packed."""
    keys.skip("observer observer_kwargs scale_dtype zp_dtype")
    has_group_list = keys.get("actorder") in ("group", "dynamic", True)
    keys.choose("dynamic", False, default=False)
    kind = keys.choose("type", "int", "float", default="int")
    symmetric = keys.choose("symmetric", True, False, default=True)
    bits, group_size = keys.get_bits("num_bits", default=8), keys.get_size("group_size")
    structure = keys.get("block_structure")
    allowed = ("tensor", "channel", "group", "block", "tensor_group")
    strategy = keys.choose("strategy", *allowed, default="group" if group_size else "tensor")
    keys.reject_unread()
    forms = INTEGER_FORMS if kind == "int" else FLOAT_FORMS if bits == 8 else FLOAT4_FORMS
    if file_format not in forms or (bits == 2 and kind == "float"):
        expected = " or ".join(map(repr, forms))
        raise QuantizationKeys({}, WHERE).unsupported("format", file_format, f"{expected} for {bits}-bit {kind}")
    if kind == "float" and not symmetric:
        raise keys.unsupported("symmetric", symmetric, "true for floats")
    block = _read_block(keys, strategy, group_size, structure, kind)
    return Scheme(forms[file_format], bits, block, not symmetric, has_group_list=has_group_list)


def _read_block(
    keys: QuantizationKeys, strategy: str, group_size: int | None, structure: Any, kind: str
) -> tuple[int | None, int | None]:
    """Return the outputs and inputs that share a scale."""
    if strategy in ("group", "tensor_group"):
        if group_size is None:
            raise keys.unsupported("group_size", group_size, f"a number for the strategy {strategy!r}")
        return (1, group_size)
    if strategy != "block":
        return (None, None)
    if kind != "float":
        raise keys.unsupported("strategy", strategy, "'tensor', 'channel' or 'group' for integers")
    return read_block_shape(keys, "block_structure", structure)


def rank_targets(targets: Iterable[str], scheme: Scheme) -> list[tuple[int, Rule]]:
    """Return a rule for each target, with its rank: names come first, then patterns, then classes."""
    ranked = []
    for target in targets:
        if target == "Linear":
            ranked.append((2, Rule(EVERY_MODULE, scheme)))
        else:
            ranked.append((int(target.startswith("re:")), Rule(compile_name(target), scheme)))
    return ranked
