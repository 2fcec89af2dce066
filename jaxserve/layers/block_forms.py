"""Forms of packed weights: what the blocks of a kind hold, how large they are, and the values that they mean.

`int8` and `int4` are ours, and the blocks that GGUF calls Q8_0 and Q4_1. The others have the names of GGUF's types and
hold the numbers of those types as they are, in the order in which the kernel reads them; native/linear.c documents it,
and its table FORMS has the same rows as FORMS here.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

PackedKind = Literal["int8", "int4", "q4_0", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
BLOCK_SIZE, GROUP_SIZE = 32, 16
"""Inputs of a part of a block, which share an activation's scale; outputs that lie side by side."""
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class BlockForm:
    """The blocks of one kind: parts of 32 inputs, whose codes mean scale * (code - zero) + minimum.

    bits         of a code
    zero         the code that means 0
    num_parts    of a block
    num_factors  integers of a part that the scale is multiplied with, each for an equal share of its inputs; as many
                 for the minimum; 0: the scale is multiplied with none
    has_minimum  there is one, else it is 0
    values       what the codes mean, if not themselves
    """

    bits: int
    zero: int = 0
    num_parts: int = 1
    num_factors: int = 0
    has_minimum: bool = False
    values: tuple[int, ...] | None = None

    @property
    def inputs(self) -> int:
        """Inputs of a block."""
        return BLOCK_SIZE * self.num_parts

    @property
    def num_floats(self) -> int:
        """Numbers in float16 of a block: a scale, and maybe a minimum."""
        return 1 + self.has_minimum

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a part."""
        return BLOCK_SIZE * self.bits // 8

    @property
    def factor_bytes(self) -> int:
        """Bytes of the factors of a part."""
        return self.num_factors * self.num_floats

    @property
    def output_bytes(self) -> int:
        """Bytes of a block of one output."""
        return self.num_parts * (self.code_bytes + self.factor_bytes) + 2 * self.num_floats

    @property
    def group_bytes(self) -> int:
        """Bytes of a block of all outputs of a group."""
        return GROUP_SIZE * self.output_bytes


FORMS: dict[PackedKind, BlockForm] = {
    "int8": BlockForm(8, zero=128),
    "int4": BlockForm(4, has_minimum=True),
    "q4_0": BlockForm(4, zero=8),
    "q5_0": BlockForm(5, zero=16),
    "q5_1": BlockForm(5, has_minimum=True),
    "q2_k": BlockForm(2, num_parts=8, num_factors=2, has_minimum=True),
    "q3_k": BlockForm(3, zero=4, num_parts=8, num_factors=2),
    "q4_k": BlockForm(4, num_parts=8, num_factors=1, has_minimum=True),
    "q5_k": BlockForm(5, num_parts=8, num_factors=1, has_minimum=True),
    "q6_k": BlockForm(6, zero=32, num_parts=8, num_factors=2),
    "iq4_nl": BlockForm(4, values=IQ4_VALUES),
    "iq4_xs": BlockForm(4, num_parts=8, num_factors=1, values=IQ4_VALUES),
}
assert tuple(FORMS) == get_args(PackedKind)


@dataclass(frozen=True, slots=True)
class BlockFields:
    """The fields of blocks, with the outputs of a group, or chosen ones, along axis X. NumPy's arrays or JAX's.

    word     uint8 [..., parts, words, X, 4]: codes, several in a byte where they have less than 8 bits
    factor   int8 [..., parts, factors, X]: those of the scale, then those of the minimum
    number   float16 [..., numbers, X]: the scale, and maybe the minimum
    """

    word: Any
    factor: Any
    number: Any


def split_fields(kind: PackedKind, data: Any) -> BlockFields:
    """Return what is in data uint8 [..., bytes of a block]."""
    form, front = FORMS[kind], data.shape[:-1]
    end = form.group_bytes - 2 * GROUP_SIZE * form.num_floats
    part = data[..., :end].reshape(*front, form.num_parts, -1)
    code_bytes = GROUP_SIZE * form.code_bytes
    return BlockFields(
        part[..., :code_bytes].reshape(*part.shape[:-1], form.bits, GROUP_SIZE, 4),
        part[..., code_bytes:].view(np.int8).reshape(*part.shape[:-1], form.factor_bytes, GROUP_SIZE),
        _view_halves(data[..., end:]).reshape(*front, form.num_floats, GROUP_SIZE),
    )


def _view_halves(data: Any) -> Any:
    return (np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data).view(np.float16)


def dequantize(kind: PackedKind, fields: BlockFields) -> Any:
    """Return the values, float32 [..., fours of inputs, X, 4]."""
    xp = np if isinstance(fields.word, np.ndarray) else jnp
    form = FORMS[kind]
    *front, num_parts, _, num_outputs, _ = fields.word.shape
    code = _read_codes(form, fields.word, xp)
    value = code.astype(np.float32) - form.zero if form.values is None else xp.asarray(form.values, np.float32)[code]
    num_shares = max(form.num_factors, 1)
    value = value.reshape(*front, num_parts, num_shares, 8 // num_shares, num_outputs, 4)
    value = value * _spread(form, fields, 0)
    if form.has_minimum:
        value = value + _spread(form, fields, 1)
    return value.reshape(*front, num_parts * 8, num_outputs, 4)


def _spread(form: BlockForm, fields: BlockFields, index: int) -> Any:
    """Return the scale (index 0) or the minimum of every share, float32 [..., parts, shares, 1, X, 1]."""
    number = fields.number[..., None, index : index + 1, :].astype(np.float32)
    if form.num_factors:
        first = index * form.num_factors
        number = number * fields.factor[..., first : first + form.num_factors, :].astype(np.float32)
    return number[..., None, :, None]


def _read_codes(form: BlockForm, word: Any, xp: Any) -> Any:
    """Return codes uint8 [..., 8 fours, X, 4] of words [..., words, X, 4]."""
    if form.bits == 8:
        return word
    num_low = 2 if form.bits < 4 else 4
    if num_low == 4:
        low = xp.concatenate([word[..., :4, :, :] & 15, word[..., :4, :, :] >> 4], axis=-3)
    else:
        low = _split_pairs(word[..., :2, :, :], xp)
    if form.bits - num_low == 1:
        high = word[..., num_low:, :, :] >> xp.arange(8, dtype=np.uint8)[:, None, None] & 1
    elif form.bits - num_low == 2:
        high = _split_pairs(word[..., num_low:, :, :], xp)
    else:
        return low
    return low | high << num_low


def _split_pairs(word: Any, xp: Any) -> Any:
    """Return pairs of bits uint8 [..., 8, X, 4] of two words [..., 2, X, 4]."""
    pair = word[..., None, :, :] >> xp.arange(0, 8, 2, dtype=np.uint8)[:, None, None] & 3
    return pair.reshape(*word.shape[:-3], 8, *word.shape[-2:])


def write_codes(code: np.ndarray, bits: int) -> np.ndarray:
    """Return the words uint8 [..., 4 * bits] of a part's codes uint8 [..., 32]: those of one output."""
    if bits == 8:
        return code
    four = code.reshape(*code.shape[:-1], 8, 4)
    num_low = 2 if bits < 4 else 4
    words = [four[..., :4, :] & 15 | four[..., 4:, :] << 4 if num_low == 4 else _join(four & 3, 2, 4)]
    if bits - num_low:
        width = bits - num_low
        words.append(_join(four >> num_low, width, 8 // width))
    return np.concatenate([word.reshape(*code.shape[:-1], -1) for word in words], axis=-1)


def _join(four: np.ndarray, bits: int, num: int) -> np.ndarray:
    """Return bytes uint8 [..., 8 / num, 4] of fours [..., 8, 4]: a byte has bits of `num` of them, the first lowest."""
    four = four.reshape(*four.shape[:-2], 8 // num, num, 4)
    word = four[..., 0, :].copy()
    for index in range(1, num):
        word |= four[..., index, :] << (bits * index)
    return word
