"""Forms of integers with scales: int8 as it is, compressed-tensors' words, AWQ and GPTQ.

Sources: compressed-tensors' compressors "naive-quantized" and "pack-quantized"; AutoAWQ's WQLinear_GEMM; AutoGPTQ's
QuantLinear and GPTQModel's format "gptq_v2".
"""

import numpy as np

from jaxserve.weights.packed_form import (
    GroupedCodes,
    PackedForm,
    Parts,
    Scheme,
    check_group_list,
    check_shape,
    count_groups,
    group_of_inputs,
    unpack_words,
)

INT8, INT32 = np.dtype(np.int8), np.dtype(np.int32)
# The outputs of a word, from its lowest four bits up, and where each output of eight lies in it.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
AWQ_PLACES = np.argsort(AWQ_ORDER)


def _find_int8_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    shape = _matrix_shape(parts)
    _check_scales(parts, shape, scheme)
    if scheme.has_zero_points:
        check_shape(parts, "zeros", parts["scales"].shape)
        if parts["zeros"].dtype != INT8:
            raise ValueError(f"its zeros are {parts['zeros'].dtype}, not int8")
    return shape


def _matrix_shape(parts: Parts) -> tuple[int, int]:
    shape = parts["codes"].shape
    if len(shape) != 2:
        raise ValueError(f"its codes have shape {shape}, not that of a matrix")
    return shape


def _check_scales(parts: Parts, shape: tuple[int, ...], scheme: Scheme) -> int:
    """Return the number of groups; the scales must be [out, groups], or one for all, or one for each output."""
    num_groups = count_groups(shape[1], scheme.block[1])
    shapes = [(shape[0], num_groups)]
    if num_groups == 1:
        shapes += [(shape[0],), (), (1,), (1, 1)]
    check_shape(parts, "scales", *shapes)
    return num_groups


def _read_grid(values: np.ndarray, rows: slice) -> np.ndarray:
    """Return some rows of values [out, groups], where one number may stand for all outputs."""
    grid_OG = values.reshape(max(values.size, 1), 1) if values.ndim < 2 else values
    return grid_OG if len(grid_OG) == 1 else grid_OG[rows]


def _read_int8(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> GroupedCodes:
    code_OI = parts["codes"][rows, columns].view(np.uint8) ^ np.uint8(128)
    scale_OG = _read_grid(parts["scales"], rows).astype(np.float32)
    zero_OG = _read_grid(parts["zeros"], rows).view(np.uint8) ^ np.uint8(128) if scheme.has_zero_points else None
    return GroupedCodes(code_OI, _all_rows(scale_OG, code_OI), zero_OG, group_of_inputs(columns, scheme.block[1]), 8)


def _all_rows(scale_OG: np.ndarray, code_OI: np.ndarray) -> np.ndarray:
    return np.broadcast_to(scale_OG, (len(code_OI), scale_OG.shape[1]))


def _find_words_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    _check_bits(scheme)
    width_out, words = _matrix_shape(parts)
    check_shape(parts, "shape", (2,))
    shape = tuple(map(int, parts["shape"]))
    if shape[0] != width_out or -(-shape[1] * scheme.bits // 32) != words:
        raise ValueError(f"its shape is {shape}, which {width_out} x {words} words of {scheme.bits} bits do not hold")
    num_groups = _check_scales(parts, shape, scheme)
    if scheme.has_zero_points:
        check_shape(parts, "zeros", (-(-width_out * scheme.bits // 32), num_groups))
    check_group_list(parts, scheme, shape[1])
    return shape


def _read_words(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> GroupedCodes:
    code_OI = unpack_words(parts["codes"][rows], scheme.bits, columns)
    scale_OG = _all_rows(_read_grid(parts["scales"], rows).astype(np.float32), code_OI)
    zero_OG = unpack_words(parts["zeros"].T, scheme.bits, rows).T if scheme.has_zero_points else None
    group_I = _read_groups(parts, scheme, columns, scale_OG.shape[1])
    return GroupedCodes(code_OI, scale_OG, zero_OG, group_I, scheme.bits)


def _read_groups(parts: Parts, scheme: Scheme, columns: slice, num_groups: int) -> np.ndarray | None:
    """Return the group of each input, which act-order stores. Raises ValueError if there is none of a number."""
    if "group_of_input" not in parts or scheme.block[1] is None:
        return group_of_inputs(columns, scheme.block[1])
    group_I = parts["group_of_input"][columns]
    if group_I.size and not (group_I.min() >= 0 and group_I.max() < num_groups):
        raise ValueError(f"an input is in a group beyond its {num_groups}")
    return group_I


def _check_bits(scheme: Scheme) -> None:
    if scheme.bits not in (2, 4, 8):
        raise ValueError(f"its codes have {scheme.bits} bits; read are 2, 4 and 8")


def _find_awq_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    width_in, words = _matrix_shape(parts)
    num_groups = count_groups(width_in, scheme.block[1])
    check_shape(parts, "scales", (num_groups, words * 8))
    check_shape(parts, "zeros", (num_groups, words))
    return words * 8, width_in


def _read_awq(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> GroupedCodes:
    scale_GO = parts["scales"][:, rows].astype(np.float32)
    code_OI = _unpack_awq(parts["codes"][columns], rows).T
    return GroupedCodes(
        code_OI, scale_GO.T, _unpack_awq(parts["zeros"], rows).T, group_of_inputs(columns, scheme.block[1]), 4
    )


def _unpack_awq(word: np.ndarray, outputs: slice) -> np.ndarray:
    """Return codes [..., outputs] of words that hold eight outputs each in AWQ's order."""
    first, last = outputs.start // 8, -(-outputs.stop // 8)
    code = unpack_words(word, 4, slice(first * 8, last * 8))
    code = code.reshape(*code.shape[:-1], -1, 8)[..., AWQ_PLACES].reshape(code.shape)
    return code[..., outputs.start - first * 8 : outputs.stop - first * 8]


def _find_gptq_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    _check_bits(scheme)
    words, width_out = _matrix_shape(parts)
    width_in = words * 32 // scheme.bits
    num_groups = count_groups(width_in, scheme.block[1])
    check_shape(parts, "scales", (num_groups, width_out))
    check_shape(parts, "zeros", (num_groups, -(-width_out * scheme.bits // 32)))
    check_group_list(parts, scheme, width_in)
    return width_out, width_in


def _read_gptq(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> GroupedCodes:
    code_OI = unpack_words(parts["codes"][:, rows].T, scheme.bits, columns)
    scale_GO = parts["scales"][:, rows].astype(np.float32)
    zero_GO = unpack_words(parts["zeros"], scheme.bits, rows)
    if scheme.zero_offset:  # a zero point of 0 is stored as -1, so all of its bits are set
        zero_GO = zero_GO + np.uint8(scheme.zero_offset) & np.uint8((1 << scheme.bits) - 1)
    group_I = _read_groups(parts, scheme, columns, len(scale_GO))
    return GroupedCodes(code_OI, scale_GO.T, zero_GO.T, group_I, scheme.bits)


INT8_FORM = PackedForm(
    title="int8",
    codes="",
    values="",
    scales={"scales": ("_scale",)},
    optional={"zeros": "_zero_point"},
    dtypes=(INT8,),
    find_shape=_find_int8_shape,
    read=_read_int8,
)
WORDS_FORM = PackedForm(
    title="integers in words",
    codes="_packed",
    values="",
    scales={"scales": ("_scale",), "shape": ("_shape",)},
    optional={"zeros": "_zero_point", "group_of_input": "_g_idx"},
    dtypes=(INT32,),
    find_shape=_find_words_shape,
    read=_read_words,
)
AWQ_FORM = PackedForm(
    title="AWQ",
    codes=".qweight",
    values=".weight",
    scales={"scales": (".scales",), "zeros": (".qzeros",)},
    dtypes=(INT32,),
    find_shape=_find_awq_shape,
    read=_read_awq,
    is_in_out=True,
)
GPTQ_FORM = PackedForm(
    title="GPTQ",
    codes=".qweight",
    values=".weight",
    scales={"scales": (".scales",), "zeros": (".qzeros",)},
    optional={"group_of_input": ".g_idx"},
    dtypes=(INT32,),
    find_shape=_find_gptq_shape,
    read=_read_gptq,
    is_in_out=True,
)
