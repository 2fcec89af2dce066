"""Fused, stacked and unstacked tensors give the leaves of plain ones, from every format, plain and packed.

Leaves are drawn first, and written as one tensor for each projection and expert, fused, or stacked.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.layers import quant
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE, PackedKind
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.gguf import BLOCK_TYPES, split_blocks
from jaxserve.weights.load import check_checkpoint, find_origin, load_params
from jaxserve.weights.packing import pack_shard
from jaxserve.weights.protocol import Checkpoint
from jaxserve.weights.shards import read_shard
from tests.models.tiny import tiny_config
from tests.weights import gguf_writer, tiny
from tests.weights.counting import CountingCheckpoint

LAYERS, EXPERTS = 2, 3
# 40 is no multiple of 16 outputs nor of 32 inputs: fused rows start within a group, and GGUF keeps `down` as float32.
SHAPE = {"num_hidden_layers": LAYERS, "vocab_size": 80, "num_key_value_heads": 1, "intermediate_size": 40}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "mlp_only_layers": []}
CONFIGS = {
    "phi3": tiny_config("phi3") | SHAPE,
    "qwen2": tiny_config("qwen2") | SHAPE,
    "mixtral": tiny_config("mixtral") | SHAPE | {"num_local_experts": EXPERTS},
    "qwen3_moe": tiny_config("qwen3_moe") | SHAPE | MOE,
}
STEMS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp.router": "mlp.gate",
}
MIXTRAL_NAMES = {"gate": "w1", "down": "w2", "up": "w3"}
FUSED = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_up_proj": ("gate_proj", "up_proj")}

Tensors = dict[str, np.ndarray]


def params_of(config: Mapping[str, Any]) -> dict[ParamPath, ParamSpec]:
    architecture = registry.find_architecture(config)
    return architecture.params(architecture.spec(config))


def random_leaves(config: dict[str, Any]) -> dict[ParamPath, np.ndarray]:
    """Vectors hold numbers that bfloat16 has, too: GGUF keeps them as float32 beside matrices of any form."""
    rng = np.random.default_rng(7)
    leaves = {path: rng.standard_normal(param.shape, np.float32) for path, param in params_of(config).items()}
    return {path: round_to_bfloat16(leaf) if leaf.ndim == 1 else leaf for path, leaf in leaves.items()}


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def plain_tensors(leaves: dict[ParamPath, np.ndarray]) -> Tensors:
    """One tensor [out, in] for each projection and for each expert."""
    top = {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
    tensors: Tensors = {}
    for path, leaf in leaves.items():
        first, *rest = map(str, path)
        if first != "layers":
            tensors[f"{top[first]}.weight"] = leaf
            continue
        layer, *module, name = rest
        prefix = f"model.layers.{layer}."
        if "experts" in module:
            tensors |= {f"{prefix}mlp.experts.{e}.{name}_proj.weight": matrix.T for e, matrix in enumerate(leaf)}
        else:
            suffix = "bias" if name == "bias" else "weight"
            tensors[f"{prefix}{STEMS['.'.join(module)]}.{suffix}"] = leaf.T if name == "kernel" else leaf
    return tensors


def fuse(tensors: Tensors) -> Tensors:
    """Query, key and value are rows of one tensor, and so are gate and up."""
    tensors = dict(tensors)
    for layer in range(LAYERS):
        for fused, parts in FUSED.items():
            prefix = f"model.layers.{layer}.{fused.split('.')[0]}."
            for suffix in ("weight", "bias"):
                names = [f"{prefix}{part}.{suffix}" for part in parts]
                if names[0] in tensors:
                    tensors[f"model.layers.{layer}.{fused}.{suffix}"] = np.concatenate([*map(tensors.pop, names)])
    return tensors


def stack(tensors: Tensors) -> Tensors:
    """All experts of a projection are one tensor [experts, out, in]."""
    tensors = dict(tensors)
    for layer in range(LAYERS):
        experts = f"model.layers.{layer}.mlp.experts"
        for name in ("gate", "up", "down"):
            parts = [tensors.pop(f"{experts}.{expert}.{name}_proj.weight") for expert in range(EXPERTS)]
            tensors[f"{experts}.{name}_proj.weight"] = np.stack(parts)
    return tensors


def fuse_stacks(tensors: Tensors) -> Tensors:
    """As `stack`, and gate and up of every expert are rows of one matrix."""
    tensors = stack(tensors)
    for layer in range(LAYERS):
        experts = f"model.layers.{layer}.mlp.experts"
        parts = [tensors.pop(f"{experts}.{name}_proj.weight") for name in ("gate", "up")]
        tensors[f"{experts}.gate_up_proj"] = np.concatenate(parts, axis=1)
        tensors[f"{experts}.down_proj"] = tensors.pop(f"{experts}.down_proj.weight")
    return tensors


def fuse_stacks_of_gguf(tensors: Tensors) -> Tensors:
    """Gate and up under GGUF's name; the writer stacks what is left."""
    left = {name: value for name, value in tensors.items() if ".experts." not in name or ".down_proj." in name}
    fused = {name: value for name, value in fuse_stacks(tensors).items() if name.endswith("gate_up_proj")}
    return left | {f"blk.{name.split('.')[2]}.ffn_gate_up_exps.weight": value for name, value in fused.items()}


def name_as_mixtral(tensors: Tensors) -> Tensors:
    """A tensor for each expert, under Mixtral's names."""
    named = {}
    for name, value in tensors.items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        for usual, mixtral in MIXTRAL_NAMES.items():
            name = name.replace(f".{usual}_proj.", f".{mixtral}.")
        named[name] = value
    return named


def keep(tensors: Tensors) -> Tensors:
    return tensors


def in_safetensors(path: Path, config: dict[str, Any], tensors: Tensors, form: Kind) -> Path:
    dtype = {Kind.F32: np.float32, Kind.BF16: ml_dtypes.bfloat16}[form]
    stored = {name: np.ascontiguousarray(value.astype(dtype)) for name, value in tensors.items()}
    return tiny.write_directory(path / "safetensors", stored, config)


def in_gguf(path: Path, config: dict[str, Any], tensors: Tensors, form: Kind) -> Path:
    return gguf_writer.write(path / "a.gguf", config, tensors, kind=form)


def in_old_gguf(path: Path, config: dict[str, Any], tensors: Tensors, form: Kind) -> Path:
    return gguf_writer.write(path / "a.gguf", config, tensors, kind=form, is_old=True)


def in_orbax(path: Path, config: dict[str, Any], tensors: Tensors, form: Kind) -> Path:
    """Saved from a safetensors directory, as the leaves that were loaded."""
    dtype = ml_dtypes.bfloat16 if form == Kind.BF16 else np.float32
    source = open_checkpoint(in_safetensors(path, config, tensors, form))
    return tiny.write_orbax(path / "saved", load(source, dtype), config)


@dataclass(frozen=True)
class Case:
    """A way to keep a model's weights: how its tensors are arranged, in which format, and as which numbers."""

    model: str
    arrange: Callable[[Tensors], Tensors]
    write: Callable[[Path, dict[str, Any], Tensors, Kind], Path]
    form: Kind = Kind.F32


CASES = [
    Case("phi3", fuse, in_safetensors),
    Case("phi3", fuse, in_safetensors, Kind.BF16),
    Case("phi3", keep, in_safetensors),
    Case("phi3", fuse, in_gguf),
    Case("phi3", fuse, in_gguf, Kind.Q8_0),
    Case("phi3", fuse, in_gguf, Kind.Q4_1),
    Case("phi3", fuse, in_orbax),
    Case("qwen2", fuse, in_safetensors),  # with biases
    Case("qwen3_moe", keep, in_safetensors),
    Case("qwen3_moe", stack, in_safetensors, Kind.BF16),
    Case("qwen3_moe", fuse_stacks, in_safetensors),
    Case("qwen3_moe", keep, in_gguf, Kind.BF16),  # the writer stacks experts
    Case("qwen3_moe", keep, in_gguf, Kind.Q8_0),
    Case("qwen3_moe", keep, in_gguf, Kind.Q4_1),
    Case("qwen3_moe", fuse_stacks_of_gguf, in_gguf),
    Case("qwen3_moe", fuse_stacks_of_gguf, in_gguf, Kind.Q8_0),
    Case("qwen3_moe", fuse_stacks_of_gguf, in_gguf, Kind.Q4_1),
    Case("qwen3_moe", fuse_stacks, in_orbax, Kind.BF16),
    Case("mixtral", name_as_mixtral, in_safetensors),
    Case("mixtral", stack, in_safetensors),
    Case("mixtral", fuse_stacks, in_safetensors, Kind.BF16),
    Case("mixtral", name_as_mixtral, in_gguf, Kind.Q8_0),
    Case("mixtral", name_as_mixtral, in_old_gguf),
    Case("mixtral", name_as_mixtral, in_old_gguf, Kind.Q8_0),
    Case("mixtral", name_as_mixtral, in_old_gguf, Kind.Q4_1),
    Case("mixtral", name_as_mixtral, in_orbax),
]


def case_name(case: Case) -> str:
    return f"{case.model}-{case.arrange.__name__}-{case.write.__name__}-{case.form.name}"


@pytest.fixture(scope="module", params=CASES, ids=case_name)
def written(request, tmp_path_factory):
    """A case, its checkpoint, and the leaves that were written."""
    case, config = request.param, CONFIGS[request.param.model]
    leaves = random_leaves(config)
    path = tmp_path_factory.mktemp("layout")
    return case, open_checkpoint(case.write(path, config, case.arrange(plain_tensors(leaves)), case.form)), leaves


def load(checkpoint: Checkpoint, dtype: Any = np.float32, quantization: Any = "none") -> dict[ParamPath, Any]:
    architecture, params = registry.find_architecture(checkpoint.config), params_of(checkpoint.config)
    check_checkpoint(checkpoint, params, ignored=architecture.ignored_tensors(architecture.spec(checkpoint.config)))
    return load_params(checkpoint, params, registry.abstract_params(params, dtype, quantization))


def rows_of(path: ParamPath, leaf: np.ndarray) -> np.ndarray:
    """A leaf as tensors hold it, [out, in]; experts and vectors stay what they are."""
    return leaf if leaf.ndim == 1 or path[-1] == "table" else leaf.swapaxes(-1, -2)


def has_blocks(rows: np.ndarray, form: Kind) -> bool:
    return form in BLOCK_TYPES.values() and rows.ndim > 1 and rows.shape[-1] % 32 == 0


def stored_rows(rows: np.ndarray, form: Kind) -> np.ndarray:
    """Rows as float32 after they were rounded to the numbers of the file."""
    if has_blocks(rows, form):
        return gguf.dequantize(gguf.quantize(rows, form), form)
    return round_to_bfloat16(rows) if form == Kind.BF16 else rows


def packed_matrix(rows_OI: np.ndarray, form: Kind, kind: PackedKind, shape: tuple[int, ...]) -> np.ndarray:
    """One matrix packed whole: its own blocks where the file has them, else packed anew."""
    if has_blocks(rows_OI, form) and form == BLOCK_TYPES[kind]:
        blocks = split_blocks(gguf.quantize(rows_OI, form), kind)
    else:
        blocks = quant.quantize(stored_rows(rows_OI, form), kind)
    data_GBX = np.empty(shape, np.uint8)
    quant.pack_blocks(blocks, data_GBX)
    return data_GBX


def test_leaves_are_those_that_were_written(written):
    case, checkpoint, leaves = written
    loaded = load(checkpoint)
    assert loaded.keys() == leaves.keys()
    for path, leaf in leaves.items():
        expected = stored_rows(rows_of(path, leaf), case.form)
        np.testing.assert_array_equal(rows_of(path, np.asarray(loaded[path])), expected, err_msg=str(path))


def list_parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of an array that have some of one axis: the beginning, the end, and between them."""
    for axis, size in enumerate(shape):
        for start, stop in {(0, size // 2), (1, size), (size // 3, size - 1)}:
            if start < stop:
                yield tuple(slice(start, stop) if each == axis else slice(None) for each in range(len(shape)))


def test_a_part_of_a_leaf_is_that_of_the_whole_and_nothing_else_is_read(written):
    _, checkpoint, _ = written
    loaded = load(checkpoint)
    for path, param in params_of(checkpoint.config).items():
        origin, leaf = find_origin(checkpoint, path, param), np.asarray(loaded[path])
        for index in list_parts(leaf.shape):
            counting = CountingCheckpoint(checkpoint)
            part = read_shard(origin, counting.read, param, leaf.shape, index)
            np.testing.assert_array_equal(part, leaf[index], err_msg=str(path))
            assert counting.num_values == part.size


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_part_of_a_packed_leaf_is_that_of_the_whole_and_nothing_else_is_read(written, quantization):
    _, checkpoint, _ = written
    loaded, params = load(checkpoint, quantization=quantization), params_of(checkpoint.config)
    for path, weight in loaded.items():
        if not isinstance(weight, quant.PackedWeight):
            continue
        origin, data = find_origin(checkpoint, path, params[path]), np.asarray(weight.data)
        for index in list_parts(data.shape[:-1]):
            counting = CountingCheckpoint(checkpoint)
            part = pack_shard(counting, path, origin, params[path], weight, (*index, slice(None)))
            np.testing.assert_array_equal(part, data[index], err_msg=str(path))
            assert counting.num_values <= prod(part.shape[:-1]) * GROUP_SIZE * BLOCK_SIZE


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_packed_leaves_are_the_plain_ones_packed(written, quantization, monkeypatch):
    monkeypatch.setattr("jaxserve.weights.packing.SLAB_VALUES", 2048)  # two groups of 16 rows at a time
    case, checkpoint, leaves = written
    loaded = load(checkpoint, quantization=quantization)
    packed = [path for path in leaves if isinstance(loaded[path], quant.PackedWeight)]
    assert {path[-1] for path in leaves.keys() - packed} <= {"scale", "bias"}
    for path in packed:
        weight, rows = loaded[path], rows_of(path, leaves[path])
        assert weight.kind == ("int8" if path[-1] == "table" else quantization)
        matrices, shape_GBX = rows.reshape(-1, *rows.shape[-2:]), weight.data.shape[-3:]
        expected = [packed_matrix(matrix, case.form, weight.kind, shape_GBX) for matrix in matrices]
        np.testing.assert_array_equal(weight.data, np.reshape(expected, weight.data.shape), err_msg=str(path))
