"""Forms of small floats with scales: fp8 by tensor, output or block, NVFP4 and MXFP4.

Sources: DeepSeek-V3's weight format ("weight_scale_inv"), transformers' finegrained_fp8, modelopt's NVFP4 export, and
compressed-tensors' compressors "float-quantized", "nvfp4-pack-quantized" and "mxfp4-pack-quantized".
"""

from dataclasses import replace

import ml_dtypes
import numpy as np

from jaxserve.weights.float4 import decode_powers, unpack_float4
from jaxserve.weights.packed_form import PackedForm, Parts, Scheme, check_shape, count_groups

FP8 = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
UINT8 = np.dtype(np.uint8)


def _find_fp8_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    shape = parts["codes"].shape
    if len(shape) not in (2, 3):
        raise ValueError(f"its codes have shape {shape}, not that of a matrix or a stack of them")
    *stack, width_out, width_in = shape
    size_out, size_in = scheme.block
    if size_out is None and size_in is None:
        experts = tuple(stack)
        ones = [(), (1,), (1, 1)] if not stack else [experts, (*experts, 1, 1)]
        check_shape(parts, "scales", *ones, (*experts, width_out), (*experts, width_out, 1))
    else:
        grid = (*stack, -(-width_out // (size_out or width_out)), -(-width_in // (size_in or width_in)))
        check_shape(parts, "scales", grid)
    return shape


def _read_fp8(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> np.ndarray:
    codes, scales = parts["codes"], parts["scales"]
    value_OI = codes[rows, columns].astype(np.float32)
    scale = decode_scales(scales)
    if scales.size == 1:
        value_OI *= scale.reshape(())
    elif scheme.block == (None, None):
        value_OI *= scale.reshape(-1, 1)[rows]
    else:
        size_out, size_in = scheme.block[0] or codes.shape[0], scheme.block[1] or codes.shape[1]
        row_O = np.arange(rows.start, rows.stop) // size_out
        column_I = np.arange(columns.start, columns.stop) // size_in
        value_OI *= scale[row_O][:, column_I]
    return value_OI


def decode_scales(scales: np.ndarray) -> np.ndarray:
    """Return scales as float32; integers are exponents of powers of two."""
    return decode_powers(scales) if scales.dtype == UINT8 else scales.astype(np.float32)


def _find_float4_shape(parts: Parts, scheme: Scheme) -> tuple[int, ...]:
    codes = parts["codes"].shape
    if len(codes) not in (2, 3):
        raise ValueError(f"its codes have shape {codes}, not that of a matrix or a stack of them")
    shape = (*codes[:-1], codes[-1] * 2)
    check_shape(parts, "scales", (*codes[:-1], count_groups(shape[-1], scheme.block[1])))
    if "global_scale" in parts:
        check_shape(parts, "global_scale", (), (1,), (1, 1))
    return shape


def _read_float4(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> np.ndarray:
    first, last = columns.start // 2, -(-columns.stop // 2)
    value_OI = unpack_float4(parts["codes"][rows, first:last])
    value_OI = value_OI[:, columns.start - 2 * first : columns.stop - 2 * first]
    scale_OG = decode_scales(parts["scales"][rows])
    return value_OI * scale_OG[:, np.arange(columns.start, columns.stop) // (scheme.block[1] or 1)]


def _read_divided(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> np.ndarray:
    """Read a matrix whose scales were multiplied by the global scale before they were rounded."""
    return _read_float4(parts, scheme, rows, columns) / parts["global_scale"].astype(np.float32).reshape(())


def _read_multiplied(parts: Parts, scheme: Scheme, rows: slice, columns: slice) -> np.ndarray:
    """Read a matrix whose scales were divided by the global scale before they were rounded."""
    return _read_float4(parts, scheme, rows, columns) * parts["global_scale"].astype(np.float32).reshape(())


FP8_FORM = PackedForm(
    title="fp8",
    codes="",
    values="",
    scales={"scales": ("_scale_inv", "_scale")},
    optional={"zeros": "_zero_point"},  # zeros indeed: written of old for symmetric codes, too
    dtypes=FP8,
    find_shape=_find_fp8_shape,
    read=_read_fp8,
)
MXFP4_FORM = PackedForm(
    title="MXFP4",
    codes="_packed",
    values="",
    scales={"scales": ("_scale",)},
    dtypes=(UINT8,),
    find_shape=_find_float4_shape,
    read=_read_float4,
)
MXFP4_BYTES_FORM = replace(MXFP4_FORM, codes="")
NVFP4_FORM = PackedForm(
    title="NVFP4",
    codes="_packed",
    values="",
    scales={"scales": ("_scale",), "global_scale": ("_global_scale",)},
    dtypes=(UINT8,),
    find_shape=_find_float4_shape,
    read=_read_divided,
)
NVFP4_BYTES_FORM = replace(
    NVFP4_FORM, codes="", scales={"scales": ("_scale",), "global_scale": ("_scale_2",)}, read=_read_multiplied
)
