"""A quantised checkpoint in the view of an unpacked one: its matrices have the names, shapes and values of plain ones.

Nothing is unpacked before it is read. A part is unpacked in slabs, so that beside its values little memory is needed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import QuantizedBlocks
from jaxserve.layers.scaled_weight import DTYPES, ScaledKind
from jaxserve.model_files import blame_model_files
from jaxserve.weights.mapped_file import aligned_empty
from jaxserve.weights.mxfp4 import MXFP4Checkpoint, is_packed
from jaxserve.weights.orbax import OrbaxCheckpoint
from jaxserve.weights.packed_floats import decode_scales
from jaxserve.weights.packed_form import GroupedCodes, Parts, find_kind
from jaxserve.weights.packed_tensors import PackedTensor, find_packed, find_unused, view_parts
from jaxserve.weights.protocol import Checkpoint, TensorInfo, holds_blocks
from jaxserve.weights.quantization import FileQuantization
from jaxserve.weights.quantization_methods import find_quantization, without_config

FLOAT32, E4M3 = np.dtype(np.float32), DTYPES["fp8"]
SLAB_VALUES = 1 << 18  # unpacked at a time: a slab and its scratch stay in cache


def open_quantized(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint itself if nothing in it is packed, else its unpacked view.

    Raises BadCheckpoint for a quantization that is not read or does not fit the tensors.
    """
    if is_packed(checkpoint.config):
        return MXFP4Checkpoint(checkpoint)
    has_words = any(name.endswith(".qweight") for name in checkpoint.tensors)
    with blame_model_files("quantization_config"):
        quantization = find_quantization(checkpoint.path, checkpoint.config, has_words)
        return checkpoint if quantization is None else QuantizedCheckpoint(checkpoint, quantization)


def describe_packing(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the rows of the start-up table about what is packed in the file; none if nothing is."""
    if isinstance(checkpoint, MXFP4Checkpoint):
        return {"packed in the file": "experts in MXFP4"}
    if isinstance(checkpoint, OrbaxCheckpoint) and checkpoint.packed:
        kinds = " and ".join(sorted({leaf.kind for leaf in checkpoint.packed.values()}))
        return {"packed in the file": f"{kinds} in blocks, by jaxserve convert"}
    if holds_blocks(checkpoint):
        types = ", ".join(f"{name} in {num} tensors" for name, num in checkpoint.count_types().items())
        return {"packed in the file": types} if types else {}
    if not isinstance(checkpoint, QuantizedCheckpoint):
        return {}
    unused = {"not used": f"{', '.join(checkpoint.unused)} of the checkpoint"} if checkpoint.unused else {}
    return {"packed in the file": checkpoint.quantization.title, **unused}


class QuantizedCheckpoint:
    """An opened checkpoint some of whose matrices are packed."""

    has_param_layout = False

    def __init__(self, checkpoint: Checkpoint, quantization: FileQuantization) -> None:
        self.path: Path = checkpoint.path
        self.config: dict[str, Any] = without_config(checkpoint.config)
        self.generation_config = checkpoint.generation_config
        self.quantization = quantization
        self._stored = checkpoint
        self._packed = find_packed(checkpoint, quantization)
        unused = find_unused(set(checkpoint.tensors))
        taken = {part for packed in self._packed.values() for part in packed.parts.values()} | set(unused)
        taken |= _find_empty_biases(checkpoint, self._packed)
        plain = {name: info for name, info in checkpoint.tensors.items() if name not in taken}
        if both := plain.keys() & self._packed.keys():
            raise BadCheckpoint(f"{self.path}: tensor {min(both)!r} is there packed and as it is.")
        self.tensors: Mapping[str, TensorInfo] = plain | {
            name: TensorInfo(
                packed.shape, FLOAT32, sum(checkpoint.tensors[part].nbytes for part in packed.parts.values())
            )
            for name, packed in self._packed.items()
        }
        self.unused = tuple(sorted({*quantization.unused, *unused.values()}))

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of the tensor's values; those of packed ones are float32, an array made for the caller.

        Raises BadCheckpoint if a packed one holds what cannot be.
        """
        packed = self._packed.get(name)
        if packed is None:
            return self._stored.read(name, part)
        *stack, rows, columns = part or (slice(None),) * len(packed.shape)
        try:
            if not stack:
                return _unpack(packed, view_parts(self._stored, packed), rows, columns)
            return self._unpack_stack(packed, range(packed.shape[0])[stack[0]], rows, columns)
        except ValueError as error:
            raise BadCheckpoint(f"{self.path}: tensor {name!r} cannot be unpacked: {error}.") from None

    def _unpack_stack(self, packed: PackedTensor, matrices: range, rows: slice, columns: slice) -> np.ndarray:
        num_rows, num_columns = (
            len(range(size)[each]) for size, each in zip(packed.shape[1:], (rows, columns), strict=True)
        )
        values = aligned_empty((len(matrices), num_rows, num_columns), FLOAT32)
        for value_OI, matrix in zip(values, matrices, strict=True):
            value_OI[...] = _unpack(packed, view_parts(self._stored, packed, matrix), rows, columns)
        return values

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> QuantizedBlocks | None:
        """Return a part of the tensor's blocks, [out, in], if its codes are of that kind; else None."""
        packed = self._packed.get(name)
        if packed is None:
            return self._stored.read_blocks(name, kind, part)
        if len(packed.shape) != 2:
            return None
        rows, columns = part or (slice(None), slice(None))
        row_range, column_range = range(packed.shape[0])[rows], range(packed.shape[1])[columns]
        codes = packed.form.read(
            view_parts(self._stored, packed), packed.scheme, _cover(row_range), _cover(column_range)
        )
        blocks = codes.to_blocks(kind) if isinstance(codes, GroupedCodes) and column_range.step == 1 else None
        return blocks and blocks.take_rows(slice(None, None, row_range.step))

    def kind_of(self, name: str) -> PackedKind | None:
        """Return the packed form that can hold the tensor's own codes; None if none can, or it is not packed."""
        packed = self._packed.get(name)
        return None if packed is None or len(packed.shape) != 2 else find_kind(packed.scheme, packed.shape[1])

    def find_output_scales(self, name: str) -> tuple[ScaledKind, np.ndarray] | None:
        """Return the type of a matrix's numbers and the scale of each output, float32 [O], if it has no others.

        None if it is not packed, or with zero points or scales for groups of inputs.
        """
        packed = self._packed.get(name)
        if packed is None or len(packed.shape) != 2:
            return None
        parts, num_outputs = view_parts(self._stored, packed), packed.shape[0]
        if packed.scheme.form == "fp8":
            is_e4m3 = parts["codes"].dtype == E4M3
            scales = decode_scales(parts["scales"]).reshape(-1) if is_e4m3 else np.empty(0)
            is_fit = scales.size == 1 or (packed.scheme.block == (None, None) and scales.size == num_outputs)
            return ("fp8", np.broadcast_to(scales, (num_outputs,)).astype(np.float32)) if is_fit else None
        if packed.scheme.bits != 8 or packed.scheme.block[1] is not None or packed.scheme.form not in ("int8", "words"):
            return None
        codes = packed.form.read(parts, packed.scheme, slice(0, num_outputs), slice(0, 4))
        if not isinstance(codes, GroupedCodes) or codes.zero_OG is not None or codes.group_I is not None:
            return None
        return "int8", codes.scale_OG.reshape(-1).astype(np.float32)

    def find_group_scales(self, name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return the scales of a matrix of int4 codes, float32 [O, groups], and what means 0, uint8; None: 8 does.

        None if it is not packed so, or if groups are not as many inputs in their order.
        """
        packed = self._packed.get(name)
        if packed is None or len(packed.shape) != 2 or find_kind(packed.scheme, packed.shape[1]) != "int4":
            return None
        parts, (num_outputs, num_inputs) = view_parts(self._stored, packed), packed.shape
        codes = packed.form.read(parts, packed.scheme, slice(0, num_outputs), slice(0, 8))
        assert isinstance(codes, GroupedCodes)
        listed = parts.get("group_of_input")
        in_order = np.arange(num_inputs) // (num_inputs // codes.scale_OG.shape[1])
        if listed is not None and (listed != in_order).any():
            return None
        return codes.scale_OG.astype(np.float32), None if codes.is_symmetric else codes.zero_OG

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's parts of the file take."""
        packed = self._packed.get(name)
        for part in (name,) if packed is None else packed.parts.values():
            self._stored.release(part)


def _find_empty_biases(checkpoint: Checkpoint, packed: Mapping[str, PackedTensor]) -> set[str]:
    """Return the biases of zeros that AutoGPTQ wrote for every matrix, whether the network has one or not."""
    names = {name.removesuffix("weight") + "bias" for name, each in packed.items() if each.scheme.form == "gptq"}
    return {name for name in names & checkpoint.tensors.keys() if not checkpoint.read(name).any()}


def _unpack(packed: PackedTensor, parts: Parts, rows: slice, columns: slice) -> np.ndarray:
    """Return some rows and columns of a matrix, a new float32 array in the file's order, unpacked slab by slab."""
    row_range, column_range = (range(size)[each] for size, each in zip(packed.shape[-2:], (rows, columns), strict=True))
    whole_rows, whole_columns = _cover(row_range), _cover(column_range)
    shape = (whole_rows.stop - whole_rows.start, whole_columns.stop - whole_columns.start)
    is_in_out = packed.form.is_in_out
    value_OI = aligned_empty(shape[::-1], FLOAT32).T if is_in_out else aligned_empty(shape, FLOAT32)
    slabs = _slabs(whole_columns, shape[0]) if is_in_out else _slabs(whole_rows, shape[1])
    for slab, place in slabs if value_OI.size else ():
        if is_in_out:
            value_OI[:, place] = _values(packed.form.read(parts, packed.scheme, whole_rows, slab))
        else:
            value_OI[place] = _values(packed.form.read(parts, packed.scheme, slab, whole_columns))
    return value_OI[:: row_range.step, :: column_range.step]


def _values(unpacked: GroupedCodes | np.ndarray) -> np.ndarray:
    return unpacked.dequantize() if isinstance(unpacked, GroupedCodes) else unpacked


def _slabs(whole: slice, width: int) -> Iterator[tuple[slice, slice]]:
    """Yield parts of a range whose numbers have `width` values each, and where the parts lie in it."""
    size = max(SLAB_VALUES // max(width, 1) // 8 * 8, 8)
    for first in range(whole.start, whole.stop, size):
        last = min(first + size, whole.stop)
        yield slice(first, last), slice(first - whole.start, last - whole.start)


def _cover(numbers: range) -> slice:
    """Return the slice of step 1 that has all the numbers."""
    return slice(numbers[0], numbers[-1] + 1) if numbers else slice(0, 0)
