"""How quantised checkpoints store a matrix: in several tensors, of which a form gives the values, part by part.

A form is one row of the table in packed_tensors.py. Its reader is a pure function of the stored tensors, views of the
file: it touches what the requested part is made of, and returns integers with the scales of their groups, or values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from jaxserve.layers.block_forms import BLOCK_SIZE, FORMS, PackedKind
from jaxserve.layers.quant import QuantizedBlocks

Parts: TypeAlias = Mapping[str, np.ndarray]
"""The stored tensors of one matrix by their roles. Optional ones may be missing."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """The packing of a matrix [out, in], as quantization_config describes it.

    form             the name of its form
    bits             of a code
    block            outputs and inputs that share a scale; None: all of them, or for `fp8` what the scale's shape says
    zero_offset      what is added to stored zero points
    has_zero_points  zero points must be there; else 0 is the middle of the codes
    has_group_list   a list of the inputs' groups must be there, whose order is not that of the inputs
    """

    form: str
    bits: int
    block: tuple[int | None, int | None]
    has_zero_points: bool = False
    zero_offset: int = 0
    has_group_list: bool = False


def find_kind(scheme: Scheme, num_inputs: int) -> PackedKind | None:
    """Return the packed form whose blocks can hold the codes of a scheme, in which no group ends within a block."""
    if scheme.form not in ("awq", "gptq", "int8", "words") or scheme.has_group_list:
        return None
    group_size = scheme.block[1] or num_inputs
    if num_inputs % BLOCK_SIZE or group_size % BLOCK_SIZE:
        return None
    if scheme.bits == 8:
        return None if scheme.has_zero_points else "int8"
    return "int4" if scheme.bits == 4 and scheme.form != "int8" else None


@dataclass(frozen=True, slots=True)
class GroupedCodes:
    """Integers of some rows and columns of a matrix, and the scales of its groups: value = (code - zero) * scale.

    code_OI    uint8
    scale_OG   float32
    zero_OG    uint8, or None: half of all codes is 0
    group_I    int: the group of each input; None: one group of all
    bits       of a code
    """

    code_OI: np.ndarray
    scale_OG: np.ndarray
    zero_OG: np.ndarray | None
    group_I: np.ndarray | None
    bits: int

    def dequantize(self) -> np.ndarray:
        """Return the values, float32 [O, I]."""
        value_OI = self.code_OI.astype(np.float32)
        value_OI -= np.float32(self._middle) if self.zero_OG is None else self._spread(self.zero_OG)
        value_OI *= self._spread(self.scale_OG)
        return value_OI

    def to_blocks(self, kind: PackedKind) -> QuantizedBlocks | None:
        """Return blocks with the same codes; None where the form of `kind` cannot hold them.

        Scales, and minima in int4, are rounded to float16; those of AWQ and GPTQ are float16 as stored.
        """
        num_inputs = self.code_OI.shape[1]
        if kind not in ("int8", "int4") or self.bits != FORMS[kind].bits or num_inputs % BLOCK_SIZE:
            return None
        if kind == "int8" and not self.is_symmetric:
            return None
        num_blocks, group_B = num_inputs // BLOCK_SIZE, None
        if self.group_I is not None:
            group_BK = self.group_I.reshape(num_blocks, BLOCK_SIZE)
            if (group_BK != group_BK[:, :1]).any():
                return None
            group_B = group_BK[:, 0]
        scale_OB = _spread(self.scale_OG, group_B, num_blocks)
        half_OB = scale_OB.astype(np.float16)
        if not np.isfinite(half_OB).all():
            return None
        code_OBK = self.code_OI.reshape(len(self.code_OI), num_blocks, BLOCK_SIZE)
        if kind == "int8":
            return QuantizedBlocks(code_OBK, half_OB)
        zero_OB = self._middle if self.zero_OG is None else _spread(self.zero_OG, group_B, num_blocks)
        minimum_OB = (np.float32(-1) * zero_OB * scale_OB).astype(np.float16)
        return QuantizedBlocks(code_OBK[..., :16] | code_OBK[..., 16:] << 4, half_OB, minimum_OB)

    @property
    def is_symmetric(self) -> bool:
        """Whether the middle of the codes is zero in all groups."""
        return self.zero_OG is None or bool((self.zero_OG == self._middle).all())

    @property
    def _middle(self) -> int:
        return 1 << (self.bits - 1)

    def _spread(self, value_OG: np.ndarray) -> np.ndarray:
        return value_OG if self.group_I is None else value_OG[:, self.group_I]


def _spread(value_OG: np.ndarray, group_B: np.ndarray | None, num_blocks: int) -> np.ndarray:
    return np.repeat(value_OG, num_blocks, axis=1) if group_B is None else value_OG[:, group_B]


@dataclass(frozen=True, slots=True)
class PackedForm:
    """One way to store a matrix.

    title        what the start-up table calls it
    codes        suffix of the tensor with the codes
    values       suffix that stands in its place when it is unpacked
    scales       role → suffixes of a tensor that must be there, by one of these names
    optional     role → suffix of a tensor that may be there
    dtypes       types of the codes
    find_shape   the shape of the values, of which nothing is read; raises ValueError, which says what does not fit
    read         integers or float32 values of some rows (outputs) and columns (inputs)
    is_in_out    the codes lie [in, out]
    """

    title: str
    codes: str
    values: str
    scales: Mapping[str, tuple[str, ...]]
    dtypes: tuple[np.dtype, ...]
    find_shape: Callable[[Parts, Scheme], tuple[int, ...]]
    read: Callable[[Parts, Scheme, slice, slice], GroupedCodes | np.ndarray]
    optional: Mapping[str, str] = field(default_factory=dict)
    is_in_out: bool = False


def check_shape(parts: Parts, role: str, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless a stored tensor is there and has one of the shapes."""
    if role not in parts:
        raise ValueError(f"it has no {role}")
    if parts[role].shape not in shapes:
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"its {role} have shape {parts[role].shape}, not {expected}")


def count_groups(size: int, group_size: int | None) -> int:
    """Return the number of groups of inputs. Raises ValueError unless they are whole."""
    if group_size is None:
        return 1
    if size % group_size:
        raise ValueError(f"its {size} inputs are no whole groups of {group_size}")
    return size // group_size


def group_of_inputs(columns: slice, group_size: int | None) -> np.ndarray | None:
    """Return the group of each input in a range; None if there is one group of all."""
    return None if group_size is None else np.arange(columns.start, columns.stop) // group_size


def check_group_list(parts: Parts, scheme: Scheme, num_inputs: int) -> None:
    """Raise ValueError unless the inputs' groups are listed where the scheme needs them, one for each."""
    if "group_of_input" in parts or (scheme.has_group_list and scheme.block[1] is not None):
        check_shape(parts, "group_of_input", (num_inputs,))


def unpack_words(word: np.ndarray, bits: int, columns: slice) -> np.ndarray:
    """Return codes uint8 [..., columns] of words int32 [..., W] along the last axis, the lowest bits first.

    bits: 1, 2, 4 or 8, so that no code lies in two bytes.
    """
    per_word = 32 // bits
    first, last = columns.start // per_word, -(-columns.stop // per_word)
    byte = np.ascontiguousarray(word[..., first:last]).astype("<i4", copy=False).view(np.uint8)
    if bits < 8:
        shift = np.arange(0, 8, bits, dtype=np.uint8)
        byte = (byte[..., None] >> shift & np.uint8((1 << bits) - 1)).reshape(*byte.shape[:-1], -1)
    return byte[..., columns.start - first * per_word : columns.stop - first * per_word]
