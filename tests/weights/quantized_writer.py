"""Writers of quantised checkpoints in every form, from the forms' documentation, with the values that they stand for.

Each writer takes a module's name and its matrix [out, in], and returns the stored tensors and the values. They share no
code with the readers: words are sums of shifted codes, written out.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, np.ndarray]
Writer = Callable[[str, np.ndarray], tuple[Tensors, np.ndarray]]
E4M3 = ml_dtypes.float8_e4m3fn
AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@dataclass(frozen=True)
class Form:
    """A quantization_config and what writes a matrix by it."""

    config: dict[str, Any]
    write: Writer


def words_of(code: np.ndarray, bits: int) -> np.ndarray:
    """int32 words along the last axis, the first code in the lowest bits, filled up with zeros."""
    per_word = 32 // bits
    code = np.pad(code, ((0, 0), (0, -code.shape[1] % per_word))).astype(np.uint64)
    word = sum(code[:, place::per_word] << np.uint64(bits * place) for place in range(per_word))
    return np.asarray(word).astype(np.uint32).view(np.int32)


def rounded(matrix: np.ndarray, group_I: np.ndarray, bits: int, symmetric: bool, dtype: Any):
    """Codes [out, in], scales and zero points [out, groups], and the values that they stand for."""
    num_groups, top = group_I.max() + 1, (1 << bits) - 1
    scale, zero = np.empty((len(matrix), num_groups), np.float32), np.empty((len(matrix), num_groups), np.uint8)
    for group in range(num_groups):
        part = matrix[:, group_I == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        width = 2 * np.maximum(-low, high) if symmetric else high - low
        scale[:, group] = (width / top).astype(dtype).astype(np.float32)
        zero[:, group] = (top + 1) // 2 if symmetric else np.clip(np.rint(-low / scale[:, group]), 1, top)
    code = np.rint(matrix / scale[:, group_I]) + zero[:, group_I]
    code = np.clip(code, 0, top).astype(np.uint8)
    return code, scale, zero, (code.astype(np.float32) - zero[:, group_I]) * scale[:, group_I]


def in_order(matrix: np.ndarray, group_size: int) -> np.ndarray:
    return np.arange(matrix.shape[1]) // group_size


def awq(module: str, matrix: np.ndarray, *, group_size: int = 16) -> tuple[Tensors, np.ndarray]:
    code, scale, zero, values = rounded(matrix, in_order(matrix, group_size), 4, False, np.float16)

    def in_awq_order(code_XO: np.ndarray) -> np.ndarray:
        return code_XO.reshape(len(code_XO), -1, 8)[..., AWQ_NIBBLES].reshape(code_XO.shape)

    return {
        f"{module}.qweight": words_of(in_awq_order(code.T), 4),
        f"{module}.qzeros": words_of(in_awq_order(zero.T), 4),
        f"{module}.scales": scale.T.astype(np.float16),
    }, values


def gptq(
    *, bits: int = 4, version: int = 1, act_order: bool = False, group_size: int = 16, symmetric: bool = False
) -> Writer:
    def write(module: str, matrix: np.ndarray) -> tuple[Tensors, np.ndarray]:
        group_I = in_order(matrix, group_size)
        if act_order:
            group_I = np.random.default_rng(matrix.size).permutation(group_I)
        code, scale, zero, values = rounded(matrix, group_I, bits, symmetric, np.float16)
        return {
            f"{module}.qweight": words_of(code, bits).T,
            f"{module}.qzeros": words_of(zero.T - np.uint8(2 - version), bits),
            f"{module}.scales": scale.T.astype(np.float16),
            f"{module}.g_idx": group_I.astype(np.int32),
            f"{module}.bias": np.zeros(len(matrix), np.float16),
        }, values

    return write


def words(*, bits: int = 4, symmetric: bool = True, group_size: int | None = 16, act_order: bool = False) -> Writer:
    def write(module: str, matrix: np.ndarray) -> tuple[Tensors, np.ndarray]:
        group_I = in_order(matrix, group_size or matrix.shape[1])
        if act_order:
            group_I = np.random.default_rng(matrix.size).permutation(group_I)
        code, scale, zero, values = rounded(matrix, group_I, bits, symmetric, ml_dtypes.bfloat16)
        tensors = {
            f"{module}.weight_packed": words_of(code, bits),
            f"{module}.weight_scale": scale.astype(ml_dtypes.bfloat16),
            f"{module}.weight_shape": np.array(matrix.shape, np.int64),
        }
        if not symmetric:
            tensors[f"{module}.weight_zero_point"] = words_of(zero.T, bits).T
        if act_order:
            tensors[f"{module}.weight_g_idx"] = group_I.astype(np.int32)
        return tensors, values

    return write


def int8(*, symmetric: bool = True, strategy: str = "channel") -> Writer:
    def write(module: str, matrix: np.ndarray) -> tuple[Tensors, np.ndarray]:
        whole = matrix.reshape(1, -1) if strategy == "tensor" else matrix
        code, scale, zero, values = rounded(whole, np.zeros(whole.shape[1], int), 8, symmetric, ml_dtypes.bfloat16)
        tensors = {
            f"{module}.weight": (code.astype(np.int16) - 128).astype(np.int8).reshape(matrix.shape),
            f"{module}.weight_scale": scale.astype(ml_dtypes.bfloat16),
        }
        if strategy == "tensor":
            tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"].reshape(1)
        if not symmetric:
            tensors[f"{module}.weight_zero_point"] = (zero.astype(np.int16) - 128).astype(np.int8)
        return tensors, values.reshape(matrix.shape)

    return write


def fp8(
    block: tuple[int, int] | None, *, suffix: str = "_scale_inv", per_output: bool = False, shape: Any = None
) -> Writer:
    """block None: one scale for all, or one for each output."""

    def write(module: str, matrix: np.ndarray) -> tuple[Tensors, np.ndarray]:
        size_out, size_in = block or (1 if per_output else len(matrix), matrix.shape[1])
        rows, columns = np.arange(len(matrix)) // size_out, np.arange(matrix.shape[1]) // size_in
        scale = np.empty((rows[-1] + 1, columns[-1] + 1), np.float32)
        for row, column in np.ndindex(scale.shape):
            scale[row, column] = np.abs(matrix[rows == row][:, columns == column]).max() / 448
        code = (matrix / scale[rows][:, columns]).astype(E4M3)
        stored = scale if shape is None else scale.reshape(shape)
        values = code.astype(np.float32) * scale[rows][:, columns]
        return {f"{module}.weight": code, f"{module}.weight{suffix}": stored}, values

    return write


def float4(*, group_size: int, codes: str, global_scale: str | None = None) -> Writer:
    """MXFP4 without a global scale; NVFP4 with `_global_scale`, which divides, or `_scale_2`, which multiplies."""

    def write(module: str, matrix: np.ndarray) -> tuple[Tensors, np.ndarray]:
        group_I = in_order(matrix, group_size)
        parts = matrix.reshape(len(matrix), -1, group_size)
        largest, tensors = np.abs(parts).max(-1) / 6, {}
        if global_scale is None:
            exponent = np.ceil(np.log2(largest)).astype(np.int16) + 127
            tensors[f"{module}.weight_scale"] = exponent.astype(np.uint8)
            scale = 2.0 ** (exponent.astype(np.float32) - 127)
        else:
            factor = np.float32(448 / largest.max())
            stored = (largest * factor).astype(E4M3)
            tensors[f"{module}.weight_scale"] = stored
            number = factor if global_scale == "_global_scale" else 1 / factor
            tensors[f"{module}.weight{global_scale}"] = np.full((1,), number, np.float32)
            scale = stored.astype(np.float32) / factor
        code = np.abs(matrix[..., None] / scale[:, group_I][..., None] - FLOAT4).argmin(-1).astype(np.uint8)
        tensors[f"{module}.weight{codes}"] = code[:, ::2] | code[:, 1::2] << 4
        return tensors, FLOAT4[code] * scale[:, group_I]

    return write


def compressed(file_format: str, weights: dict[str, Any], **others: Any) -> dict[str, Any]:
    """quantization_config of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": file_format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        **others,
    }


def integers(bits: int, strategy: str, symmetric: bool = True, **others: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": False, **others}


def floats(bits: int, strategy: str, **others: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "float", "symmetric": True, "strategy": strategy, "dynamic": False, **others}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False, "desc_act": False}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
FORMS: dict[str, Form] = {
    "awq": Form({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}, awq),
    "gptq": Form(GPTQ, gptq()),
    "gptq, symmetric": Form(GPTQ | {"sym": True}, gptq(symmetric=True)),
    "gptq, act-order": Form(GPTQ | {"desc_act": True}, gptq(act_order=True)),
    "gptq v2, 8 bits": Form(GPTQ | {"bits": 8, "checkpoint_format": "gptq_v2"}, gptq(bits=8, version=2)),
    "gptq, 2 bits, groups of 32": Form(GPTQ | {"bits": 2, "group_size": 32}, gptq(bits=2, group_size=32)),
    "int4 words": Form(compressed("pack-quantized", integers(4, "group", group_size=16)), words()),
    "int4 words with zero points": Form(
        compressed("pack-quantized", integers(4, "group", False, group_size=16)), words(symmetric=False)
    ),
    "int4 words in act-order": Form(
        compressed("pack-quantized", integers(4, "group", group_size=16, actorder="group")), words(act_order=True)
    ),
    "int4 words of whole outputs": Form(compressed("pack-quantized", integers(4, "channel")), words(group_size=None)),
    "int8 words": Form(compressed("pack-quantized", integers(8, "channel")), words(bits=8, group_size=None)),
    "int8": Form(compressed("int-quantized", integers(8, "channel")), int8()),
    "int8 with zero points": Form(compressed("int-quantized", integers(8, "channel", False)), int8(symmetric=False)),
    "int8 of whole tensors": Form(compressed("int-quantized", integers(8, "tensor")), int8(strategy="tensor")),
    "fp8 blocks": Form(FP8 | {"weight_block_size": [16, 24]}, fp8((16, 24))),
    "fp8 of whole tensors": Form(FP8 | {"weight_block_size": None}, fp8(None, shape=())),
    "fp8 outputs, compressed-tensors": Form(
        compressed("float-quantized", floats(8, "channel")), fp8(None, suffix="_scale", per_output=True)
    ),
    "fp8 blocks, compressed-tensors": Form(
        compressed("float-quantized", floats(8, "block", block_structure=[16, 24])), fp8((16, 24), suffix="_scale")
    ),
    "fp8, modelopt": Form({"quant_method": "modelopt", "quant_algo": "FP8"}, fp8(None, suffix="_scale", shape=())),
    "mxfp4, compressed-tensors": Form(
        compressed("mxfp4-pack-quantized", floats(4, "group", group_size=32)), float4(group_size=32, codes="_packed")
    ),
    "mxfp4, quark": Form(
        {
            "quant_method": "quark",
            "global_quant_config": {
                "weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"},
                "input_tensors": {"dtype": "fp4"},
            },
            "exclude": ["lm_head"],
        },
        float4(group_size=32, codes=""),
    ),
    "nvfp4, compressed-tensors": Form(
        compressed("nvfp4-pack-quantized", floats(4, "tensor_group", group_size=16)),
        float4(group_size=16, codes="_packed", global_scale="_global_scale"),
    ),
    "nvfp4, modelopt": Form(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]},
        float4(group_size=16, codes="", global_scale="_scale_2"),
    ),
}


def is_packed(name: str, value: np.ndarray) -> bool:
    """Whether quantisers pack a tensor: matrices of linear layers but the head and routers."""
    return value.ndim == 2 and "proj.weight" in name


def pack(form: Form, weights: Tensors) -> tuple[Tensors, Tensors]:
    """The tensors of a checkpoint in a form, and those of the unpacked one."""
    stored, plain = {}, {}
    for name, value in weights.items():
        if is_packed(name, value):
            tensors, plain[name] = form.write(name.removesuffix(".weight"), value)
            stored |= {other: tensor for other, tensor in tensors.items() if other == name or other not in weights}
        else:
            stored[name] = plain[name] = value
    return stored, plain


def write_checkpoint(path: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    """A directory with config.json and one file."""
    return write_torch(path, config, {name: to_torch(value) for name, value in tensors.items()})


def write_torch(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def to_torch(value: np.ndarray) -> torch.Tensor:
    """Types that numpy lacks go through integers."""
    value = np.array(value, order="C")
    for dtype, carrier, torch_dtype in (
        (E4M3, np.uint8, torch.float8_e4m3fn),
        (ml_dtypes.bfloat16, np.int16, torch.bfloat16),
    ):
        if value.dtype == dtype:
            return torch.from_numpy(value.view(carrier)).view(torch_dtype)
    return torch.from_numpy(value)
