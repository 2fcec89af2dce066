"""Blocks of GGUF files in the order of the packed forms: the same numbers, which no rounding touches.

Layouts: block_q4_0 to block_iq4_xs in ggml-common.h of https://github.com/ggml-org/ggml, and `gguf.quants`.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from jaxserve.layers.block_forms import BLOCK_SIZE, FORMS, PackedKind, write_codes
from jaxserve.layers.quant import QuantizedBlocks

BLOCK_TYPES: Mapping[PackedKind, Type] = {
    "int8": Type.Q8_0,
    "int4": Type.Q4_1,
    "q4_0": Type.Q4_0,
    "q5_0": Type.Q5_0,
    "q5_1": Type.Q5_1,
    "q2_k": Type.Q2_K,
    "q3_k": Type.Q3_K,
    "q4_k": Type.Q4_K,
    "q5_k": Type.Q5_K,
    "q6_k": Type.Q6_K,
    "iq4_nl": Type.IQ4_NL,
    "iq4_xs": Type.IQ4_XS,
}
"""The type that each packed form holds as it is."""
TYPE_KINDS: Mapping[int, PackedKind] = {int(ggml_type): kind for kind, ggml_type in BLOCK_TYPES.items()}
SLAB_VALUES = 1 << 18  # taken apart at a time: a slab and its scratch stay in cache

Fields: TypeAlias = tuple[np.ndarray, np.ndarray | None, np.ndarray]
"""Codes uint8 [N, parts, 32] or words of codes [N, parts, bytes], factors int8 [N, parts, factors] if there are some,
and float16 numbers [N, numbers] of N blocks."""


def split_blocks(rows: np.ndarray, kind: PackedKind) -> QuantizedBlocks:
    """Return the fields of rows of blocks, uint8 [O, bytes of a row]."""
    form = FORMS[kind]
    block_values, block_bytes = GGML_QUANT_SIZES[BLOCK_TYPES[kind]]
    num_rows, num_blocks = len(rows), rows.shape[1] // block_bytes
    num_parts = num_blocks * form.num_parts
    code = np.empty((num_rows, num_parts, form.code_bytes), np.uint8)
    factor = np.empty((num_rows, num_parts, form.factor_bytes), np.int8)
    number = np.empty((num_rows, num_blocks, form.num_floats), np.float16)
    slab_rows = max(SLAB_VALUES // (num_blocks * block_values), 1)
    for first in range(0, num_rows, slab_rows):
        part = slice(first, min(first + slab_rows, num_rows))
        block_NX = np.ascontiguousarray(rows[part]).reshape(-1, block_bytes)
        code_NPK, factor_NPF, number_NF = _READERS[kind](block_NX)
        if code_NPK.shape[-1] == BLOCK_SIZE:
            code_NPK = write_codes(code_NPK, form.bits)
        code[part] = code_NPK.reshape(-1, num_parts, form.code_bytes)
        if factor_NPF is not None:
            factor[part] = factor_NPF.reshape(-1, num_parts, form.factor_bytes)
        number[part] = number_NF.reshape(-1, num_blocks, form.num_floats)
    minimum = number[..., 1] if form.has_minimum else None
    return QuantizedBlocks(code, number[..., 0], minimum, factor if form.num_factors else None)


def _halves(block_NX: np.ndarray, start: int, num: int) -> np.ndarray:
    return np.ascontiguousarray(block_NX[:, start : start + 2 * num]).view(np.float16)


def _bytes(block_NX: np.ndarray, start: int, num: int) -> np.ndarray:
    return block_NX[:, start : start + num]


def _shift(value: np.ndarray, bits: int, num: int) -> np.ndarray:
    """Return numbers of `bits` bits, the lowest of all first: [..., num, K] of [..., K]."""
    shift = np.arange(0, bits * num, bits, dtype=np.uint8)[:, None]
    return value[..., None, :] >> shift & np.uint8((1 << bits) - 1)


def _read_q8_0(block_NX: np.ndarray) -> Fields:
    return (_bytes(block_NX, 2, 32) ^ np.uint8(128))[:, None], None, _halves(block_NX, 0, 1)


def _read_nibbles(num_floats: int) -> Callable[[np.ndarray], Fields]:
    """Return a reader of blocks of 4 bits, which are in the kernel's order."""

    def read(block_NX: np.ndarray) -> Fields:
        return _bytes(block_NX, 2 * num_floats, 16)[:, None], None, _halves(block_NX, 0, num_floats)

    return read


def _read_fives(num_floats: int) -> Callable[[np.ndarray], Fields]:
    """Return a reader of blocks of 5 bits: 32 bits, each the upper one of a code, and then the lower four."""

    def read(block_NX: np.ndarray) -> Fields:
        start = 2 * num_floats
        high = np.unpackbits(_bytes(block_NX, start, 4), axis=-1, bitorder="little")
        low = _shift(_bytes(block_NX, start + 4, 16), 4, 2).reshape(-1, 32)
        return (low | high << 4)[:, None], None, _halves(block_NX, 0, num_floats)

    return read


def _read_q2_k(block_NX: np.ndarray) -> Fields:
    factor = _shift(_bytes(block_NX, 0, 16), 4, 2)  # [N, scales and minima, 16]
    code = _shift(_bytes(block_NX, 16, 64).reshape(-1, 2, 32), 2, 4)
    return code.reshape(-1, 8, 32), _order_factors(factor), _negate_minimum(_halves(block_NX, 80, 2))


def _read_q3_k(block_NX: np.ndarray) -> Fields:
    high = _shift(_bytes(block_NX, 0, 32), 1, 8)
    low = _shift(_bytes(block_NX, 32, 64).reshape(-1, 2, 32), 2, 4).reshape(-1, 8, 32)
    lower = _shift(_bytes(block_NX, 96, 8), 4, 2).reshape(-1, 16)
    upper = _shift(_bytes(block_NX, 104, 4), 2, 4).reshape(-1, 16)
    factor = ((lower | upper << 4).astype(np.int8) - np.int8(32)).reshape(-1, 8, 2)
    return low | high << 2, factor, _halves(block_NX, 108, 1)


def _read_q4_k(block_NX: np.ndarray) -> Fields:
    code = _shift(_bytes(block_NX, 16, 128).reshape(-1, 4, 32), 4, 2).reshape(-1, 8, 32)
    return code, _split_sixes(_bytes(block_NX, 4, 12)), _negate_minimum(_halves(block_NX, 0, 2))


def _read_q5_k(block_NX: np.ndarray) -> Fields:
    high = _shift(_bytes(block_NX, 16, 32), 1, 8)
    low = _shift(_bytes(block_NX, 48, 128).reshape(-1, 4, 32), 4, 2).reshape(-1, 8, 32)
    return low | high << 4, _split_sixes(_bytes(block_NX, 4, 12)), _negate_minimum(_halves(block_NX, 0, 2))


def _read_q6_k(block_NX: np.ndarray) -> Fields:
    low = _shift(_bytes(block_NX, 0, 128).reshape(-1, 2, 64), 4, 2).reshape(-1, 8, 32)
    high = _shift(_bytes(block_NX, 128, 64).reshape(-1, 2, 32), 2, 4).reshape(-1, 8, 32)
    factor = _bytes(block_NX, 192, 16).view(np.int8).reshape(-1, 8, 2)
    return low | high << 4, factor, _halves(block_NX, 208, 1)


def _read_iq4_xs(block_NX: np.ndarray) -> Fields:
    lower = _bytes(block_NX, 4, 4)[..., None] >> np.array([0, 4], np.uint8) & 15
    upper = _bytes(block_NX, 2, 2)[..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    factor = (lower.reshape(-1, 8) | upper.reshape(-1, 8) << 4).astype(np.int8) - np.int8(32)
    return _bytes(block_NX, 8, 128).reshape(-1, 8, 16), factor[..., None], _halves(block_NX, 0, 1)


def _split_sixes(packed_NX: np.ndarray) -> np.ndarray:
    """Return scales and minima int8 [N, 8, 2] of Q4_K and Q5_K: six bits each in twelve bytes."""
    scale, minimum, rest = np.split(packed_NX, 3, axis=-1)
    scales = np.concatenate([scale & 63, rest & 15 | scale >> 2 & 48], axis=-1)
    minima = np.concatenate([minimum & 63, rest >> 4 | minimum >> 2 & 48], axis=-1)
    return np.stack([scales, minima], axis=-1).view(np.int8)


def _order_factors(factor_NFX: np.ndarray) -> np.ndarray:
    """Return factors int8 [N, 8, 4] of scales and minima [N, 2, 16]: two scales of a part, and then its two minima."""
    return factor_NFX.reshape(-1, 2, 8, 2).swapaxes(1, 2).reshape(-1, 8, 4).view(np.int8)


def _negate_minimum(number_NF: np.ndarray) -> np.ndarray:
    """Return numbers whose minimum is added, where the file has one that is taken off."""
    return number_NF * np.array([1, -1], np.float16)


_READERS: Mapping[PackedKind, Callable[[np.ndarray], Fields]] = {
    "int8": _read_q8_0,
    "int4": _read_nibbles(2),
    "q4_0": _read_nibbles(1),
    "q5_0": _read_fives(1),
    "q5_1": _read_fives(2),
    "q2_k": _read_q2_k,
    "q3_k": _read_q3_k,
    "q4_k": _read_q4_k,
    "q5_k": _read_q5_k,
    "q6_k": _read_q6_k,
    "iq4_nl": _read_nibbles(1),
    "iq4_xs": _read_iq4_xs,
}
