"""Weights as accelerators multiply them: numbers of few bits, and float32 scales that the products are multiplied with.

int8 and fp8 (e4m3) have a scale for each output, int4 one for each output of a group of inputs. A product converts the
numbers to the type of the activations. XLA for TPU and for GPU does so inside of the product; on GPUs a kernel of ours
does so for int4 (int4_gpu.py), and one for experts (experts_gpu.py): no expanded weight is ever stored.
`scripts/device compile --quantization` looks for one in the compiled programs.

A number is at most half a step from the weight that was rounded: 1/254 of the output's largest in int8, 1/14 of the
group's in int4, 1/16 of itself in fp8. With `rounds_activations` those of a row are rounded to fp8 by one scale, too,
and both operands are multiplied as they are (Hopper and later; not by experts).
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array, lax

from jaxserve.layers.int4_gpu import Codes, int4_matmul

ScaledKind: TypeAlias = Literal["int8", "fp8", "int4"]
DTYPES: dict[ScaledKind, np.dtype] = {
    "int8": np.dtype(np.int8),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
    "int4": np.dtype(np.uint8),  # two numbers each: jax.Array reports other layouts of int4 than programs want (0.10.2)
}
LARGEST: dict[ScaledKind, float] = {"int8": 127, "fp8": 448, "int4": 7}
GROUP_INPUTS = (128, 64, 32)  # of int4; the first that divides the inputs of a device


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["data", "scale", "zero"],
    meta_fields=["kind", "is_table", "rounds_activations", "has_kernel"],
)
@dataclass(frozen=True, slots=True)
class ScaledWeight:
    """A weight [in, out], or a table [out, in]. Experts are stacked along an axis before these.

    data                 int8 or float8_e4m3fn in the shape of the weight; int4: uint8 [groups, half a group, out], of
                         which the low bits are a number of the group's first half plus 8, the high bits one of the
                         second half. With a kernel it is uint16 [groups, out, a quarter of a group], and four bits are
                         a number of each quarter, the lowest of the first
    scale                float32 [out]; of int4 [groups, out]
    zero                 uint8 [groups, out]: what stands for 0 in int4; None: 8 does
    kind                 the type of the numbers
    is_table             the weight is a table
    rounds_activations   activations are rounded to fp8 for the product
    has_kernel           int4 is multiplied by the kernel where programs are for NVIDIA GPUs
    """

    data: Any
    scale: Any
    kind: ScaledKind
    is_table: bool = False
    rounds_activations: bool = False
    has_kernel: bool = False
    zero: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        if self.kind != "int4":
            return self.data.shape
        *experts, groups, _, _ = self.data.shape
        return (*experts, groups * self.group, self.scale.shape[-1])

    @property
    def group(self) -> int:
        """The inputs of a group of int4."""
        return 4 * self.data.shape[-1] if self.has_kernel else 2 * self.data.shape[-2]

    @property
    def form(self) -> "ScaledForm":
        """The way in which it is multiplied."""
        group = self.group if self.kind == "int4" else None
        return ScaledForm(self.rounds_activations, self.has_kernel, group, self.zero is not None)


@dataclass(frozen=True, slots=True)
class ScaledForm:
    """The way in which an accelerator multiplies scaled weights.

    rounds_activations   those of fp8 weights are rounded to fp8, too
    has_kernel           int4 has a kernel, and lies as this wants it
    group                groups of int4 divide so many inputs, as where a file has scales for these; None: any
    has_zeros            groups of int4 have zero points
    """

    rounds_activations: bool = False
    has_kernel: bool = False
    group: int | None = None
    has_zeros: bool = False


def choose_group(num_inputs: int, form: ScaledForm) -> int | None:
    """Return the inputs of a group of int4 that divides so many, and those of the form; None if no group does."""
    sizes = GROUP_INPUTS[:2] if form.has_kernel else GROUP_INPUTS  # a tensor core wants 16 inputs of a quarter
    return next((size for size in sizes if not num_inputs % size and not (form.group or 0) % size), None)


def abstract_scaled(
    kind: ScaledKind, shape: tuple[int, ...], *, is_table: bool, form: ScaledForm, group: int | None = None
) -> ScaledWeight:
    """Return shape and type of a weight. Tables, and matrices that no group of int4 divides, are int8 in place of int4.

    shape   of the weight, with experts before it
    group   the inputs of a group of int4; None: the first that divides all inputs
    """
    *experts, first, last = shape
    group = group or choose_group(first, form)
    if kind == "int4" and (is_table or group is None):
        kind = "int8"
    has_kernel = form.has_kernel and kind == "int4"
    width_out = first if is_table else last
    if kind == "int4":
        assert group is not None
        matrix = (last, group // 4) if form.has_kernel else (group // 2, last)
        data_shape, scale_shape = (*experts, first // group, *matrix), (*experts, first // group, last)
    else:
        data_shape, scale_shape = tuple(shape), (*experts, width_out)
    # Not before logits, which decide between tokens that are close, nor for experts, whose kernel converts the weights.
    rounds = form.rounds_activations and kind == "fp8" and not is_table and not experts
    dtype = np.dtype(np.uint16) if has_kernel else DTYPES[kind]
    data, scale = jax.ShapeDtypeStruct(data_shape, dtype), jax.ShapeDtypeStruct(scale_shape, np.float32)
    zero = jax.ShapeDtypeStruct(scale_shape, np.uint8) if form.has_zeros and kind == "int4" else None
    return ScaledWeight(data, scale, kind, is_table, rounds, has_kernel, zero)


def scaled_matmuls(x_TI: Array, *weights: ScaledWeight) -> tuple[Array, ...]:
    """Return x @ weight, [T, out] in x's type, for each of the weights. Those with a kernel share one call."""
    with_kernel = [weight for weight in weights if weight.has_kernel]
    products = iter(_multiply_int4(x_TI, *with_kernel)) if with_kernel else iter(())
    return tuple(
        next(products) if weight.has_kernel else scaled_matmul(x_TI, weight).astype(x_TI.dtype) for weight in weights
    )


def _multiply_int4(x_TI: Array, *weights: ScaledWeight) -> tuple[Array, ...]:
    def run_kernel(x_TI: Array, *weights: ScaledWeight) -> tuple[Array, ...]:
        return int4_matmul(x_TI, *(take_codes(jax.tree.map(lambda part: part[None], weight)) for weight in weights))

    def run_reference(x_TI: Array, *weights: ScaledWeight) -> tuple[Array, ...]:
        return tuple(scaled_matmul(x_TI, weight).astype(x_TI.dtype) for weight in weights)

    return lax.platform_dependent(x_TI, *weights, cuda=run_kernel, default=run_reference)


def take_codes(weight: ScaledWeight) -> Codes:
    """Return stacked int4 weights as their kernel wants them."""
    return Codes(weight.data, weight.scale, weight.zero)


def scaled_matmul(x_TI: Array, weight: ScaledWeight) -> Array:
    """Return x @ weight, [T, out] float32, as XLA computes it."""
    precision = lax.Precision.HIGHEST if x_TI.dtype == jnp.float32 else None
    product = partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    if weight.kind == "int4":
        parts = _split_bits(weight)
        x_TGPI = x_TI.reshape(len(x_TI), len(weight.data), len(parts), -1)

        def multiply_part(part: int, code_GIO: Array) -> Array:
            y_GTO = product("tgi,gio->gto", x_TGPI[:, :, part], code_GIO.astype(x_TI.dtype))
            # Each part by itself: XLA for TPU stores a sum of all for every group.
            return jnp.einsum("gto,go->to", y_GTO, weight.scale, precision=lax.Precision.HIGHEST)

        return reduce(jnp.add, map(multiply_part, range(len(parts)), parts))
    equation = "ti,oi->to" if weight.is_table else "ti,io->to"
    if not weight.rounds_activations:
        return product(equation, x_TI, weight.data.astype(x_TI.dtype)) * weight.scale
    code_TI, scale_T1 = round_to_fp8(x_TI)
    y_TO = jnp.einsum(equation, code_TI, weight.data, preferred_element_type=jnp.float32)
    return y_TO * scale_T1 * weight.scale


def _split_bits(weight: ScaledWeight) -> list[Array]:
    """Return the numbers of the first and of each other part of the groups, int8 [groups, inputs of a part, out]."""
    data = jnp.swapaxes(weight.data, -1, -2) if weight.has_kernel else weight.data
    zero = 8 if weight.zero is None else weight.zero[..., None, :].astype(jnp.int8)
    return [(data >> shift & 15).astype(jnp.int8) - zero for shift in range(0, 8 * data.dtype.itemsize, 4)]


def round_to_fp8(x_TI: Array) -> tuple[Array, Array]:
    """Return the numbers of each row in fp8, and the row's scale, float32 [T, 1]."""
    wide_TI = x_TI.astype(jnp.float32)
    scale_T1 = jnp.abs(wide_TI).max(-1, keepdims=True) / LARGEST["fp8"]
    return (wide_TI / jnp.where(scale_T1 > 0, scale_T1, 1)).astype(DTYPES["fp8"]), scale_T1


def scaled_rows(table: ScaledWeight, index_T: Array) -> Array:
    """Return rows [T, in] float32 of a table by their indices. Indices outside read the nearest."""
    row_TI = jnp.take(table.data, index_T, axis=0, mode="clip").astype(jnp.float32)
    return row_TI * jnp.take(table.scale, index_T, mode="clip")[:, None]


def take_expert(weight: ScaledWeight, expert: Array) -> ScaledWeight:
    """Return the weight of one expert of a stack."""
    return jax.tree.map(lambda stack: lax.dynamic_index_in_dim(stack, expert, keepdims=False), weight)


def find_scales(value: np.ndarray, weight: ScaledWeight) -> np.ndarray:
    """Return the scales of values float32 with all inputs of some outputs, in the layout of the weight."""
    if weight.kind == "int4":
        *experts, _, width_out = value.shape
        value = value.reshape(*experts, -1, weight.group, width_out)
    largest = np.abs(value).max(axis=-1 if weight.is_table else -2)
    return (largest / np.float32(LARGEST[weight.kind])).astype(np.float32)


def round_values(
    value: np.ndarray, scale: np.ndarray, weight: ScaledWeight, zero: np.ndarray | None = None
) -> np.ndarray:
    """Return the numbers of values float32, in the layout of the weight's data. scale, zero: of their outputs."""
    if weight.kind == "int4":
        *experts, _, width_out = value.shape
        value = value.reshape(*experts, -1, weight.group, width_out)
    with np.errstate(all="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        value = value * (inverse[..., None] if weight.is_table else inverse[..., None, :])
        if weight.kind == "fp8":
            return np.clip(value, -LARGEST["fp8"], LARGEST["fp8"]).astype(DTYPES["fp8"])
        if weight.kind == "int8":
            return np.clip(np.rint(value), -128, 127).astype(np.int8)
        code = np.rint(value) + (8 if zero is None else zero[..., None, :])
    dtype = weight.data.dtype
    parts = np.split(np.clip(code, 0, 15).astype(dtype), 2 * dtype.itemsize, axis=-2)
    data = reduce(np.bitwise_or, (part << 4 * index for index, part in enumerate(parts)))
    return data.swapaxes(-1, -2) if weight.has_kernel else data


def dequantize(weight: ScaledWeight) -> Array:
    """Return the values, float32, in the shape of the weight: the reference of the products."""
    scale = weight.scale[..., None] if weight.is_table else weight.scale[..., None, :]
    data = jnp.concatenate(_split_bits(weight), axis=-2) if weight.kind == "int4" else weight.data
    return (data.astype(jnp.float32) * scale).reshape(weight.shape)
