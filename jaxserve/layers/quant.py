"""Weights packed in blocks of 32 inputs: int8 as codes and a scale, int4 as codes, a scale and a minimum.

A block of one output takes 34 bytes in int8 and 20 in int4; scales and minima are float16, and the block forms are
those that GGUF calls Q8_0 and Q4_1. The order of blocks in memory is documented in native/linear.c, whose products read
them. A plain jnp form replaces it where nothing can be compiled, and is the reference of the kernel's tests; it
unpacks the weights in every step, so it saves memory and costs time.

Errors, beside float32's own rounding: a weight is at most half its block's scale away from the one that was packed.
An activation is at most half of the largest of its 32, divided by 127, away from itself.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.native import library

PackedKind = Literal["int8", "int4"]
BLOCK_SIZE, GROUP_SIZE = 32, 16
BLOCK_BYTES: dict[PackedKind, int] = {"int8": GROUP_SIZE * (BLOCK_SIZE + 2), "int4": GROUP_SIZE * (BLOCK_SIZE // 2 + 4)}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["data"],
    meta_fields=["kind", "width_in", "width_out", "native"],
)
@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [in, out]: data uint8 [groups of 16 outputs, blocks of 32 inputs, BLOCK_BYTES], ends padded.

    Experts are stacked along an axis before these.
    width_in, width_out   of the weight on all ranks together
    native                the kernel computes its products; else plain jnp does. Chosen once, in `abstract_packed`
    """

    data: Any
    kind: PackedKind
    width_in: int
    width_out: int
    native: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs of the data at hand. Those of a rank's part fill its blocks and groups."""
        groups, blocks = self.data.shape[-3:-1]
        return min(self.width_in, blocks * BLOCK_SIZE), min(self.width_out, groups * GROUP_SIZE)


def abstract_packed(
    kind: PackedKind, width_in: int, width_out: int, native: bool | None = None, num_experts: int | None = None
) -> PackedWeight:
    """Return shape and type of a packed weight. Allocates nothing.

    num_experts: so many weights, stacked.
    native None: where the kernels can be compiled. True raises BadConfig where they cannot.
    """
    shape = (-(-width_out // GROUP_SIZE), -(-width_in // BLOCK_SIZE), BLOCK_BYTES[kind])
    shape = shape if num_experts is None else (num_experts, *shape)
    if native is None:
        native = library.is_usable()
    elif native:
        library.load_kernels()
    return PackedWeight(jax.ShapeDtypeStruct(shape, np.uint8), kind, width_in, width_out, native)


def bytes_per_weight(kind: Literal["int8", "int4", "fp8"]) -> float:
    """Return bytes per weight, with scales and minima."""
    if kind == "fp8":
        return 1.0  # it has no blocks, and few scales
    return BLOCK_BYTES[kind] / (GROUP_SIZE * BLOCK_SIZE)


def packed_matmul(x_TI: Array, *weights: PackedWeight) -> tuple[Array, ...]:
    """Return x @ weight for each of the weights, [T, out] in x's type. The bits of a row depend on that row alone.

    Together they are one call, and x is rounded to int8 once.
    """
    x = x_TI.astype(jnp.float32)
    if all(weight.native for weight in weights):
        shapes = tuple(jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), jnp.float32) for weight in weights)
        outputs = jax.ffi.ffi_call("jaxserve_linear", shapes)(x, *(weight.data for weight in weights))
    else:
        rounded = round_activations(x)
        outputs = [
            jnp.einsum("ti,io->to", rounded, unpack(weight), precision=lax.Precision.HIGHEST) for weight in weights
        ]
    return tuple(y.astype(x_TI.dtype) for y in outputs)


def packed_expert_matmul(x_SI: Array, count_E: Array, *weights: PackedWeight) -> tuple[Array, ...]:
    """Return the products [S, out] of rows sorted by expert, count_E of each, with the weights of their experts.

    Only for weights whose products the kernel computes. Rows that are not counted give 0.
    """
    shapes = tuple(jax.ShapeDtypeStruct((len(x_SI), weight.shape[1]), jnp.float32) for weight in weights)
    call = jax.ffi.ffi_call("jaxserve_packed_experts", shapes)
    outputs = call(x_SI.astype(jnp.float32), count_E, *(weight.data for weight in weights))
    return tuple(y.astype(x_SI.dtype) for y in outputs)


def round_activations(x_TI: Array) -> Array:
    """Return the activations that the kernel computes with: int8 times a float32 scale for every 32."""
    rows, width = x_TI.shape
    x_TBK = jnp.pad(x_TI, ((0, 0), (0, -width % BLOCK_SIZE))).reshape(rows, -1, BLOCK_SIZE)
    max_abs = jnp.abs(x_TBK).max(-1, keepdims=True)
    code = jnp.round(x_TBK * jnp.where(max_abs > 1e-30, 127 / max_abs, 0))
    return (code * (max_abs / 127)).reshape(rows, -1)[:, :width]


def unpack(weight: PackedWeight) -> Array:
    """Return the weight [in, out] as float32, every number decoded."""
    value_GBQOI = _dequantize(*_split_fields(weight.kind, weight.data))
    groups, blocks = weight.data.shape[:2]
    value_IO = jnp.transpose(value_GBQOI, (1, 2, 4, 0, 3)).reshape(blocks * BLOCK_SIZE, groups * GROUP_SIZE)
    width_in, width_out = weight.shape
    return value_IO[:width_in, :width_out]


def embedding_rows(weight: PackedWeight, index_T: Array) -> Array:
    """Return rows [T, in] float32 of a table that is packed for its product, by their indices.

    Indices outside read the nearest.
    """
    width_in, width_out = weight.shape
    index_T = jnp.clip(index_T, 0, width_out - 1)
    data_TBX = jnp.take(weight.data, index_T // GROUP_SIZE, axis=0)
    lane = (index_T % GROUP_SIZE).reshape(-1, 1, 1)
    code, scale, minimum = _split_fields(weight.kind, data_TBX)
    code = jnp.take_along_axis(code, lane[..., None, None], axis=3)
    scale = jnp.take_along_axis(scale, lane, axis=2)
    minimum = None if minimum is None else jnp.take_along_axis(minimum, lane, axis=2)
    return _dequantize(code, scale, minimum).reshape(len(index_T), -1)[:, :width_in]


def _split_fields(kind: PackedKind, data: Array) -> tuple[Array, Array, Array | None]:
    """Return codes uint8 [..., fours, 16, 4], and scales and minima [..., 16], of data [..., bytes]."""
    *front, num_bytes = data.shape
    ends = num_bytes - 2 * GROUP_SIZE * (2 if kind == "int4" else 1)
    halves = lax.bitcast_convert_type(data[..., ends:].reshape(*front, -1, GROUP_SIZE, 2), jnp.float16)
    code = data[..., :ends].reshape(*front, -1, GROUP_SIZE, 4)
    return code, halves[..., 0, :], halves[..., 1, :] if kind == "int4" else None


def _dequantize(code: Array, scale: Array, minimum: Array | None) -> Array:
    """Return float32 [..., 8 fours, outputs, 4]."""
    scale = scale[..., None, :, None].astype(jnp.float32)
    if minimum is None:
        return (code.astype(jnp.float32) - 128) * scale
    code = jnp.concatenate([code & 15, code >> 4], axis=-3)
    return code.astype(jnp.float32) * scale + minimum[..., None, :, None].astype(jnp.float32)


@dataclass(frozen=True, slots=True)
class QuantizedBlocks:
    """Blocks output by output, before they are laid out for the kernel: O outputs, B blocks each.

    code_OBK   int8: uint8 [O, B, 32], code + 128. int4: uint8 [O, B, 16], inputs 0..15 low, 16..31 high
    scale_OB   float16; minimum_OB float16, or None in int8
    """

    code_OBK: np.ndarray
    scale_OB: np.ndarray
    minimum_OB: np.ndarray | None

    def take_rows(self, rows: slice) -> "QuantizedBlocks":
        """Return the blocks of some outputs."""
        minimum_OB = None if self.minimum_OB is None else self.minimum_OB[rows]
        return QuantizedBlocks(self.code_OBK[rows], self.scale_OB[rows], minimum_OB)

    def dequantize(self) -> np.ndarray:
        """Return the values, float32 [O, 32 B]."""
        scale_OB1 = self.scale_OB[..., None].astype(np.float32)
        if self.minimum_OB is None:
            value_OBK = self.code_OBK.astype(np.float32)
            value_OBK -= np.float32(128)
            value_OBK *= scale_OB1
        else:
            value_OBK = np.concatenate([self.code_OBK & 15, self.code_OBK >> 4], axis=-1).astype(np.float32)
            value_OBK *= scale_OB1
            value_OBK += self.minimum_OB[..., None].astype(np.float32)
        return value_OBK.reshape(len(value_OBK), -1)


def quantize(weight_OI: np.ndarray, kind: PackedKind) -> QuantizedBlocks:
    """Round every weight to its nearest code; the error is at most half the block's scale.

    int8: scale = largest / 127, int4: (largest - smallest) / 15, each rounded up to float16, so that no code is cut
    off. What is not finite makes its whole block so.
    """
    outputs, inputs = weight_OI.shape
    weight_OBK = np.zeros((outputs, -(-inputs // BLOCK_SIZE), BLOCK_SIZE), np.float32)
    weight_OBK.reshape(outputs, -1)[:, :inputs] = weight_OI
    transposed = np.ascontiguousarray(
        weight_OBK.reshape(-1, BLOCK_SIZE).T
    )  # numpy's max along a short axis takes twice as long
    high_OB, low_OB = (extreme.reshape(weight_OBK.shape[:2]) for extreme in (transposed.max(0), transposed.min(0)))
    with np.errstate(all="ignore"):
        if kind == "int8":
            scale_OB = _round_up_to_float16(np.maximum(high_OB, -low_OB) / np.float32(127))
            code_OBK = _round_to_codes(weight_OBK, scale_OB)
            code_OBK += np.float32(128)
            return QuantizedBlocks(code_OBK.astype(np.uint8), scale_OB, None)
        minimum_OB = -_round_up_to_float16(-low_OB)
        weight_OBK -= minimum_OB[..., None].astype(np.float32)
        scale_OB = _round_up_to_float16((high_OB - minimum_OB.astype(np.float32)) / np.float32(15))
        code_OBK = _round_to_codes(weight_OBK, scale_OB).astype(np.uint8)
        return QuantizedBlocks(code_OBK[..., :16] | code_OBK[..., 16:] << 4, scale_OB, minimum_OB)


def _round_up_to_float16(value: np.ndarray) -> np.ndarray:
    """Round to float16, never below the value."""
    half = value.astype(np.float16)
    return np.where(half.astype(np.float32) < value, np.nextafter(half, np.float16(np.inf)), half)


def _round_to_codes(weight_OBK: np.ndarray, scale_OB: np.ndarray) -> np.ndarray:
    """Round to whole numbers in place."""
    scale_OB = scale_OB.astype(np.float32)
    weight_OBK *= np.where(scale_OB > 0, 1 / scale_OB, 0)[..., None]
    return np.rint(weight_OBK, out=weight_OBK)


def pack_blocks(blocks: QuantizedBlocks, out_GBX: np.ndarray) -> None:
    """Write blocks in the layout that the kernel reads, into all groups of `out`; missing outputs become zeros."""
    groups, num_blocks, _ = out_GBX.shape
    ends = blocks.code_OBK.shape[-1] * GROUP_SIZE
    fields = [(0, np.ascontiguousarray(blocks.code_OBK).view(np.uint32)), (ends, blocks.scale_OB[..., None])]
    if blocks.minimum_OB is not None:
        fields.append((ends + 2 * GROUP_SIZE, blocks.minimum_OB[..., None]))
    for start, field_OBF in fields:
        outputs, _, size = field_OBF.shape
        if outputs < groups * GROUP_SIZE:
            field_OBF = np.pad(field_OBF, ((0, groups * GROUP_SIZE - outputs), (0, 0), (0, 0)))
        end = start + size * GROUP_SIZE * field_OBF.itemsize
        place = out_GBX[..., start:end].view(field_OBF.dtype).reshape(groups, num_blocks, size, GROUP_SIZE)
        place[...] = field_OBF.reshape(groups, GROUP_SIZE, num_blocks, size).transpose(0, 2, 3, 1)


def unpack_blocks(data_GBX: np.ndarray, kind: PackedKind) -> QuantizedBlocks:
    """Return the blocks that `pack_blocks` wrote, those of all outputs of the groups."""
    groups, num_blocks, num_bytes = data_GBX.shape
    ends = num_bytes - 2 * GROUP_SIZE * (2 if kind == "int4" else 1)

    def take(start: int, size: int, dtype: type) -> np.ndarray:
        end = start + size * GROUP_SIZE * np.dtype(dtype).itemsize
        field = np.ascontiguousarray(data_GBX[..., start:end]).view(dtype)
        field = field.reshape(groups, num_blocks, size, GROUP_SIZE).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(field).reshape(groups * GROUP_SIZE, num_blocks, size)

    code_OBK = take(0, ends // GROUP_SIZE // 4, np.uint32).view(np.uint8)
    minimum_OB = take(ends + 2 * GROUP_SIZE, 1, np.float16)[..., 0] if kind == "int4" else None
    return QuantizedBlocks(code_OBK, take(ends, 1, np.float16)[..., 0], minimum_OB)
