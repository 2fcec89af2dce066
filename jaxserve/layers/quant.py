"""Weights packed in blocks of 32 inputs: int8 as codes and a scale, int4 as codes, a scale and a minimum.

A block of one output takes 34 bytes in int8 and 20 in int4; scales and minima are float16, and the block forms are
those that GGUF calls Q8_0 and Q4_1. How blocks lie in memory is told in native/linear.c, whose products read them.
The same in plain jnp stands in for it where nothing can be compiled, and is what the kernel is held to; it unpacks
the weights in every step, so it saves memory and costs time.

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

Kind = Literal["int8", "int4"]
BLOCK, GROUP = 32, 16
BLOCK_BYTES: dict[Kind, int] = {"int8": GROUP * (BLOCK + 2), "int4": GROUP * (BLOCK // 2 + 4)}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["data"],
    meta_fields=["kind", "width_in", "width_out", "native"],
)
@dataclass(frozen=True, slots=True)
class Packed:
    """A weight [in, out]: data uint8 [groups of 16 outputs, blocks of 32 inputs, BLOCK_BYTES], ends padded.

    native   the kernel computes its products; else plain jnp does. Chosen once, when the weight is announced
    """

    data: Any
    kind: Kind
    width_in: int
    width_out: int
    native: bool


def abstract(kind: Kind, width_in: int, width_out: int, native: bool | None = None) -> Packed:
    """Shape and type of a packed weight. Allocates nothing.

    native None: where the kernels can be compiled. True raises BadConfig where they cannot.
    """
    shape = (-(-width_out // GROUP), -(-width_in // BLOCK), BLOCK_BYTES[kind])
    if native is None:
        native = library.usable()
    elif native:
        library.load()
    return Packed(jax.ShapeDtypeStruct(shape, np.uint8), kind, width_in, width_out, native)


def bytes_a_weight(kind: Kind) -> float:
    """Scales and minima counted in."""
    return BLOCK_BYTES[kind] / (GROUP * BLOCK)


def products(x_TI: Array, *weights: Packed) -> tuple[Array, ...]:
    """x @ weight for each of the weights, [T, out] in x's type. A row's bits depend on nothing but the row.

    Together they are one call, and x is rounded to int8 once.
    """
    x = x_TI.astype(jnp.float32)
    if all(weight.native for weight in weights):
        shapes = tuple(jax.ShapeDtypeStruct((x.shape[0], weight.width_out), jnp.float32) for weight in weights)
        found = jax.ffi.ffi_call("jaxserve_linear", shapes)(x, *(weight.data for weight in weights))
    else:
        rounded = rounded_activations(x)
        found = [
            jnp.einsum("ti,io->to", rounded, unpacked(weight), precision=lax.Precision.HIGHEST) for weight in weights
        ]
    return tuple(y.astype(x_TI.dtype) for y in found)


def rounded_activations(x_TI: Array) -> Array:
    """Activations as the kernel sees them: int8 times a float32 scale for every 32."""
    rows, width = x_TI.shape
    x_TBK = jnp.pad(x_TI, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    most = jnp.abs(x_TBK).max(-1, keepdims=True)
    code = jnp.round(x_TBK * jnp.where(most > 1e-30, 127 / most, 0))
    return (code * (most / 127)).reshape(rows, -1)[:, :width]


def unpacked(weight: Packed) -> Array:
    """[in, out] float32, every weight as its code says."""
    value_GBQOI = _values(*_fields(weight.kind, weight.data))
    groups, blocks = weight.data.shape[:2]
    value_IO = jnp.transpose(value_GBQOI, (1, 2, 4, 0, 3)).reshape(blocks * BLOCK, groups * GROUP)
    return value_IO[: weight.width_in, : weight.width_out]


def columns(weight: Packed, index_T: Array) -> Array:
    """What some outputs are made of, [T, in] float32: rows of a table that is packed for its product.

    Indices outside read the nearest.
    """
    index_T = jnp.clip(index_T, 0, weight.width_out - 1)
    data_TBX = jnp.take(weight.data, index_T // GROUP, axis=0)
    lane = (index_T % GROUP).reshape(-1, 1, 1)
    code, scale, least = _fields(weight.kind, data_TBX)
    code = jnp.take_along_axis(code, lane[..., None, None], axis=3)
    scale = jnp.take_along_axis(scale, lane, axis=2)
    least = None if least is None else jnp.take_along_axis(least, lane, axis=2)
    return _values(code, scale, least).reshape(len(index_T), -1)[:, : weight.width_in]


def _fields(kind: Kind, data: Array) -> tuple[Array, Array, Array | None]:
    """data [..., bytes] → codes uint8 [..., fours, 16, 4], and scales and minima [..., 16]."""
    *front, num_bytes = data.shape
    ends = num_bytes - 2 * GROUP * (2 if kind == "int4" else 1)
    halves = lax.bitcast_convert_type(data[..., ends:].reshape(*front, -1, GROUP, 2), jnp.float16)
    code = data[..., :ends].reshape(*front, -1, GROUP, 4)
    return code, halves[..., 0, :], halves[..., 1, :] if kind == "int4" else None


def _values(code: Array, scale: Array, least: Array | None) -> Array:
    """float32 [..., 8 fours, outputs, 4]."""
    scale = scale[..., None, :, None].astype(jnp.float32)
    if least is None:
        return (code.astype(jnp.float32) - 128) * scale
    code = jnp.concatenate([code & 15, code >> 4], axis=-3)
    return code.astype(jnp.float32) * scale + least[..., None, :, None].astype(jnp.float32)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks output by output, before they are laid out for the kernel: O outputs, B blocks each.

    code_OBK   int8: uint8 [O, B, 32], code + 128. int4: uint8 [O, B, 16], inputs 0..15 low, 16..31 high
    scale_OB   float16; least_OB float16, or None in int8
    """

    code_OBK: np.ndarray
    scale_OB: np.ndarray
    least_OB: np.ndarray | None


def quantise(weight_OI: np.ndarray, kind: Kind) -> Blocks:
    """Rounds every weight to its nearest code; the error is at most half the block's scale.

    int8: scale = largest / 127, int4: (largest - smallest) / 15, each rounded up to float16, so that no code is cut
    off. What is not finite makes its whole block so.
    """
    outputs, inputs = weight_OI.shape
    weight_OBK = np.zeros((outputs, -(-inputs // BLOCK), BLOCK), np.float32)
    weight_OBK.reshape(outputs, -1)[:, :inputs] = weight_OI
    turned = np.ascontiguousarray(weight_OBK.reshape(-1, BLOCK).T)  # numpy's max along a short axis takes twice as long
    high_OB, low_OB = (extreme.reshape(weight_OBK.shape[:2]) for extreme in (turned.max(0), turned.min(0)))
    with np.errstate(all="ignore"):
        if kind == "int8":
            scale_OB = _up(np.maximum(high_OB, -low_OB) / np.float32(127))
            code_OBK = _codes(weight_OBK, scale_OB)
            code_OBK += np.float32(128)
            return Blocks(code_OBK.astype(np.uint8), scale_OB, None)
        least_OB = -_up(-low_OB)
        weight_OBK -= least_OB[..., None].astype(np.float32)
        scale_OB = _up((high_OB - least_OB.astype(np.float32)) / np.float32(15))
        code_OBK = _codes(weight_OBK, scale_OB).astype(np.uint8)
        return Blocks(code_OBK[..., :16] | code_OBK[..., 16:] << 4, scale_OB, least_OB)


def _up(value: np.ndarray) -> np.ndarray:
    """To float16, never below the value."""
    half = value.astype(np.float16)
    return np.where(half.astype(np.float32) < value, np.nextafter(half, np.float16(np.inf)), half)


def _codes(weight_OBK: np.ndarray, scale_OB: np.ndarray) -> np.ndarray:
    """Whole numbers, written over the weights."""
    scale_OB = scale_OB.astype(np.float32)
    weight_OBK *= np.where(scale_OB > 0, 1 / scale_OB, 0)[..., None]
    return np.rint(weight_OBK, out=weight_OBK)


def lay_out(blocks: Blocks, out_GBX: np.ndarray) -> None:
    """Writes blocks as the kernel reads them, into as many groups as `out` has; outputs that lack become zeros."""
    groups, num_blocks, _ = out_GBX.shape
    ends = blocks.code_OBK.shape[-1] * GROUP
    fields = [(0, np.ascontiguousarray(blocks.code_OBK).view(np.uint32)), (ends, blocks.scale_OB[..., None])]
    if blocks.least_OB is not None:
        fields.append((ends + 2 * GROUP, blocks.least_OB[..., None]))
    for start, field_OBF in fields:
        outputs, _, size = field_OBF.shape
        if outputs < groups * GROUP:
            field_OBF = np.pad(field_OBF, ((0, groups * GROUP - outputs), (0, 0), (0, 0)))
        end = start + size * GROUP * field_OBF.itemsize
        place = out_GBX[..., start:end].view(field_OBF.dtype).reshape(groups, num_blocks, size, GROUP)
        place[...] = field_OBF.reshape(groups, GROUP, num_blocks, size).transpose(0, 2, 3, 1)
