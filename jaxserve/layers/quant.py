"""Weights packed in blocks of 32 inputs, or of 256 for forms of GGUF files: PackedWeight, its products and its packing.

A block of one output takes 34 bytes in int8 and 20 in int4; scales and minima are float16. The forms are those of
block_forms.py, whose products native/linear.c computes. A plain jnp form replaces it where nothing can be compiled, and
is the reference of the kernel's tests; it unpacks the weights in every step, so it saves memory and costs time.

Errors, beside float32's own rounding: a weight is at most half its block's scale away from the one that was packed, and
those of a GGUF file are its own.
An activation is at most half of the largest of its 32, divided by 127, away from itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.layers.block_forms import (
    BLOCK_SIZE,
    FORMS,
    GROUP_SIZE,
    BlockFields,
    PackedKind,
    dequantize,
    split_fields,
)
from jaxserve.native import library


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["data"],
    meta_fields=["kind", "width_in", "width_out", "native"],
)
@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [in, out]: data uint8 [groups of 16 outputs, blocks of inputs, bytes], ends padded.

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
        return min(self.width_in, blocks * FORMS[self.kind].inputs), min(self.width_out, groups * GROUP_SIZE)


def abstract_packed(
    kind: PackedKind, width_in: int, width_out: int, native: bool | None = None, num_experts: int | None = None
) -> PackedWeight:
    """Return shape and type of a packed weight. Allocates nothing.

    num_experts: so many weights, stacked.
    native None: where the kernels can be compiled. True raises BadConfig where they cannot.
    """
    shape = data_shape(kind, width_in, width_out)
    shape = shape if num_experts is None else (num_experts, *shape)
    if native is None:
        native = library.is_usable()
    elif native:
        library.load_kernels()
    return PackedWeight(jax.ShapeDtypeStruct(shape, np.uint8), kind, width_in, width_out, native)


def data_shape(kind: PackedKind, width_in: int, width_out: int) -> tuple[int, int, int]:
    """Return the shape of the data of a packed weight: groups, blocks and bytes."""
    form = FORMS[kind]
    return -(-width_out // GROUP_SIZE), -(-width_in // form.inputs), form.group_bytes


def bytes_per_weight(kind: PackedKind | Literal["fp8"]) -> float:
    """Return bytes per weight, with scales and minima."""
    if kind == "fp8":
        return 1.0  # it has no blocks, and few scales
    return FORMS[kind].output_bytes / FORMS[kind].inputs


def packed_matmul(x_TI: Array, *weights: PackedWeight) -> tuple[Array, ...]:
    """Return x @ weight for each of the weights, [T, out] in x's type. The bits of a row depend on that row alone.

    Together they are one call, and x is rounded to int8 once.
    """
    x = x_TI.astype(jnp.float32)
    if all(weight.native for weight in weights):
        shapes = tuple(jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), jnp.float32) for weight in weights)
        outputs = jax.ffi.ffi_call("jaxserve_linear", shapes)(
            x, *(weight.data for weight in weights), forms=form_attribute(weights)
        )
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
    data = (weight.data for weight in weights)
    outputs = call(x_SI.astype(jnp.float32), count_E, *data, forms=form_attribute(weights))
    return tuple(y.astype(x_SI.dtype) for y in outputs)


def form_attribute(weights: Sequence[PackedWeight]) -> np.float64:
    """Return the forms of weights as the kernel wants them: four bits of a number each, of the first weight lowest."""
    return np.float64(sum(tuple(FORMS).index(weight.kind) << 4 * i for i, weight in enumerate(weights)))


def round_activations(x_TI: Array) -> Array:
    """Return the activations that the kernel computes with: int8 times a float32 scale for every 32."""
    rows, width = x_TI.shape
    x_TBK = jnp.pad(x_TI, ((0, 0), (0, -width % BLOCK_SIZE))).reshape(rows, -1, BLOCK_SIZE)
    max_abs = jnp.abs(x_TBK).max(-1, keepdims=True)
    code = jnp.round(x_TBK * jnp.where(max_abs > 1e-30, 127 / max_abs, 0))
    return (code * (max_abs / 127)).reshape(rows, -1)[:, :width]


def unpack(weight: PackedWeight) -> Array:
    """Return the weight [in, out] as float32, every number decoded."""
    value_GBQOI = dequantize(weight.kind, split_fields(weight.kind, weight.data))
    width_in, width_out = weight.shape
    value_IO = jnp.transpose(value_GBQOI, (1, 2, 4, 0, 3)).reshape(-1, len(weight.data) * GROUP_SIZE)
    return value_IO[:width_in, :width_out]


def embedding_rows(weight: PackedWeight, index_T: Array) -> Array:
    """Return rows [T, in] float32 of a table that is packed for its product, by their indices.

    Indices outside read the nearest.
    """
    width_in, width_out = weight.shape
    index_T = jnp.clip(index_T, 0, width_out - 1)
    fields = split_fields(weight.kind, jnp.take(weight.data, index_T // GROUP_SIZE, axis=0))
    lane_T = index_T % GROUP_SIZE

    def take_lane(field: Array, axis: int) -> Array:
        lane = lane_T.reshape(-1, *(1 for _ in field.shape[1:]))
        return jnp.take_along_axis(field, lane, axis=axis)

    row = BlockFields(take_lane(fields.word, -2), take_lane(fields.factor, -1), take_lane(fields.number, -1))
    return dequantize(weight.kind, row).reshape(len(index_T), -1)[:, :width_in]


def unpack_data(data_GBX: np.ndarray, kind: PackedKind) -> np.ndarray:
    """Return the values [out, in] of a packed matrix's data on the host: those of whole groups and whole blocks."""
    value_GBQOI = dequantize(kind, split_fields(kind, data_GBX))
    return value_GBQOI.transpose(0, 3, 1, 2, 4).reshape(len(data_GBX) * GROUP_SIZE, -1)


@dataclass(frozen=True, slots=True)
class QuantizedBlocks:
    """Blocks output by output, before they are laid out for the kernel: O outputs, B blocks each, P parts in all.

    code_OPK     uint8 [O, P, bytes of a part's codes], as block_forms.write_codes packs them. int8: code + 128. int4:
                 inputs 0..15 low, 16..31 high
    scale_OB     float16
    minimum_OB   float16, or None where the form has none
    factor_OPF   int8, factors of the scale and then of the minimum, or None where the form has none
    """

    code_OPK: np.ndarray
    scale_OB: np.ndarray
    minimum_OB: np.ndarray | None = None
    factor_OPF: np.ndarray | None = None

    def take_rows(self, rows: slice) -> "QuantizedBlocks":
        """Return the blocks of some outputs."""
        fields = (self.code_OPK, self.scale_OB, self.minimum_OB, self.factor_OPF)
        return QuantizedBlocks(*(None if field is None else field[rows] for field in fields))  # pyright: ignore


def quantize(weight_OI: np.ndarray, kind: PackedKind) -> QuantizedBlocks:
    """Round every weight to its nearest code; the error is at most half the block's scale.

    int8: scale = largest / 127, int4: (largest - smallest) / 15, each rounded up to float16, so that no code is cut
    off. What is not finite makes its whole block so.
    """
    assert kind in ("int8", "int4"), "the other kinds hold blocks of files, and nothing is rounded to them"
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
            return QuantizedBlocks(code_OBK.astype(np.uint8), scale_OB)
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
    num_groups, num_blocks, _ = out_GBX.shape
    if not num_groups:  # a rank without outputs of this matrix
        return
    floats = [field for field in (blocks.scale_OB, blocks.minimum_OB) if field is not None]
    end = out_GBX.shape[-1] - 2 * GROUP_SIZE * len(floats)
    num_parts = blocks.code_OPK.shape[1] // num_blocks
    part_GBPX = out_GBX[..., :end].reshape(num_groups, num_blocks, num_parts, -1)
    code_bytes = GROUP_SIZE * blocks.code_OPK.shape[-1]
    _write_field(np.ascontiguousarray(blocks.code_OPK).view(np.uint32), part_GBPX[..., :code_bytes])
    if blocks.factor_OPF is not None:
        _write_field(blocks.factor_OPF, part_GBPX[..., code_bytes:])
    _write_field(np.stack(floats, axis=-1), out_GBX[..., None, end:])


def _write_field(field_OPF: np.ndarray, place_GBPX: np.ndarray) -> None:
    """Write numbers [O, parts, F] of single outputs so that those of a group's outputs lie side by side."""
    num_groups, num_blocks, num_parts, _ = place_GBPX.shape
    missing = num_groups * GROUP_SIZE - len(field_OPF)
    if missing:
        field_OPF = np.pad(field_OPF, ((0, missing), (0, 0), (0, 0)))
    place = place_GBPX.view(field_OPF.dtype).reshape(num_groups, num_blocks, num_parts, -1, GROUP_SIZE)
    assert np.may_share_memory(place, place_GBPX)
    place[...] = field_OPF.reshape(num_groups, GROUP_SIZE, num_blocks, num_parts, -1).transpose(0, 2, 3, 4, 1)
