"""GGUF files: tensors under their Hugging Face names and layouts, dequantised block by block with the `gguf` package.

The head is read by gguf_header.py, the config rebuilt by gguf_config.py. Where query and key rows are stored in the
order of interleaved rotation, they return to the half-split order of Hugging Face; where norms are stored with their 1
added, it is taken off again.
"""

from collections import Counter
from math import prod
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import QuantizedBlocks
from jaxserve.weights.gguf_blocks import BLOCK_TYPES, TYPE_KINDS, split_blocks
from jaxserve.weights.gguf_config import build_generation_config, build_hf_config, find_family
from jaxserve.weights.gguf_header import GGUFTensor
from jaxserve.weights.gguf_metadata import GGUFMetadata
from jaxserve.weights.gguf_names import hf_name
from jaxserve.weights.gguf_parts import merge_tensors, read_headers
from jaxserve.weights.gguf_ranking import SCORE_TENSOR, subtract_answers
from jaxserve.weights.gguf_rope import ROPE_TENSORS
from jaxserve.weights.mapped_file import MappedFile, aligned_empty
from jaxserve.weights.protocol import TensorInfo

# Types that are numbers already; everything else is packed in blocks and comes out as float32.
PLAIN_DTYPES = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
    GGMLQuantizationType.I8: np.dtype(np.int8),
    GGMLQuantizationType.I16: np.dtype(np.int16),
    GGMLQuantizationType.I32: np.dtype(np.int32),
    GGMLQuantizationType.I64: np.dtype(np.int64),
}
FLOAT32 = np.dtype(np.float32)
FilePart: TypeAlias = tuple[slice | np.ndarray, ...]
"""A part of a tensor, where rows of the first axis may be listed one by one."""
SLAB_VALUES = 1 << 18  # dequantised at a time: a slab and its scratch stay in cache (Q4_1 +30 % over one call)


class GGUFCheckpoint:
    """An opened .gguf file, or the parts of a model in several of them."""

    has_param_layout = False

    def __init__(self, path: Path) -> None:
        self.path = path
        headers = read_headers(path)
        self._metadata = GGUFMetadata(path, headers[0].metadata)
        self._files = [MappedFile(header.path) for header in headers]
        self._family = find_family(self._metadata)
        for header in headers:
            check_tensors(header.tensors, header.num_bytes, header.path)
        stored = merge_tensors(headers)
        self._stored = {hf_name(n, self._family): tensor for n, tensor in stored.items() if n not in ROPE_TENSORS}
        self.config = build_hf_config(
            self._metadata, {n: t.shape for n, t in stored.items()}, self._rope_factors(stored)
        )
        self.generation_config = build_generation_config(self._metadata)
        self.tensors = {name: _tensor_info(name, tensor) for name, tensor in self._stored.items()}
        for name in self._stored:
            self._check_permutable(name)

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of the tensor's values in Hugging Face's layout; packed blocks become float32."""
        if name == SCORE_TENSOR:
            return subtract_answers(self._read_values(self._stored[name]))[part]
        values = self._read_values(self._stored[name], self._locate(name, part))
        if self._family.norm_offset and name.endswith("norm.weight"):
            return values.astype(np.float32) - np.float32(self._family.norm_offset)
        return values

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> QuantizedBlocks | None:
        """Return a part of the tensor's blocks, [out, in], if the file holds them in that form; else None."""
        tensor = self._stored[name]
        if tensor.ggml_type != BLOCK_TYPES[kind]:
            return None
        raw = self._view_blocks(tensor, self._locate(name, part))
        return split_blocks(raw.reshape(-1, raw.shape[-2] * raw.shape[-1]), kind)

    def kind_of(self, name: str) -> PackedKind | None:
        """Return the packed form that holds the tensor's blocks as they are; None if there is none, or no tensor."""
        tensor = self._stored.get(name)
        return None if tensor is None else TYPE_KINDS.get(tensor.ggml_type)

    def type_of(self, name: str) -> str:
        """Return the name of the tensor's type, such as Q4_K."""
        return GGMLQuantizationType(self._stored[name].ggml_type).name

    def count_types(self) -> dict[str, int]:
        """Return how many tensors each type of blocks has, in the order of the file."""
        packed = (name for name, tensor in self._stored.items() if tensor.ggml_type not in PLAIN_DTYPES)
        return dict(Counter(self.type_of(name) for name in packed))

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's part of the file takes."""
        tensor = self._stored[name]
        self._files[tensor.part].release(tensor.offset, tensor_bytes(tensor))

    def _locate(self, name: str, part: Part) -> FilePart:
        """Return where the file has a part of a tensor: rows in its own order."""
        heads = self._permuted_heads(name)
        if not heads:
            return part
        row_R = undo_rotary_permutation(np.arange(self._stored[name].shape[0])[:, None], heads)[:, 0]
        return (row_R[part[0]], *part[1:]) if part else (row_R,)

    def _read_values(self, tensor: GGUFTensor, part: FilePart = ()) -> np.ndarray:
        """Return values: a view for plain numbers in the file's order, else an array made for the caller."""
        kind = GGMLQuantizationType(tensor.ggml_type)
        if kind in PLAIN_DTYPES:
            return self._files[tensor.part].view(tensor.offset, tensor.shape, PLAIN_DTYPES[kind])[part]
        first, end = _column_range(tensor, part)
        block_values, _ = GGML_QUANT_SIZES[kind]
        skipped = first % block_values
        return dequantize_blocks(self._view_blocks(tensor, part), kind)[..., skipped : skipped + end - first]

    def _view_blocks(self, tensor: GGUFTensor, part: FilePart = ()) -> np.ndarray:
        """Return uint8[rows …, blocks, bytes of a block], the blocks that have some of the part."""
        block_values, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
        shape = (*tensor.shape[:-1], tensor.shape[-1] // block_values, block_bytes)
        first, end = _column_range(tensor, part)
        rows = part[: len(tensor.shape) - 1]
        blocks = slice(first // block_values, -(-end // block_values))
        return self._files[tensor.part].view(tensor.offset, shape, np.dtype(np.uint8))[
            (*rows, ..., blocks, slice(None))
        ]

    def _permuted_heads(self, name: str) -> int:
        """Return the number of heads in the rows of this tensor if they are permuted; else 0."""
        if not self._family.is_permuted:
            return 0
        if name.endswith((".self_attn.q_proj.weight", ".self_attn.q_proj.bias")):
            return self.config["num_attention_heads"]
        if name.endswith((".self_attn.k_proj.weight", ".self_attn.k_proj.bias")):
            return self.config["num_key_value_heads"]
        return 0

    def _check_permutable(self, name: str) -> None:
        tensor, heads = self._stored[name], self._permuted_heads(name)
        packed_vector = len(tensor.shape) == 1 and GGMLQuantizationType(tensor.ggml_type) not in PLAIN_DTYPES
        if heads and (tensor.shape[0] % (2 * heads) or packed_vector):
            raise BadCheckpoint(f"{self.path}: tensor {tensor.name!r} of shape {tensor.shape} has no {heads} heads.")

    def _rope_factors(self, stored: dict[str, GGUFTensor]) -> dict[str, np.ndarray]:
        tensors = [stored[name] for name in ROPE_TENSORS if name in stored]
        return {each.name: self._read_values(each).astype(np.float32) for each in tensors}


def _tensor_info(name: str, tensor: GGUFTensor) -> TensorInfo:
    if name == SCORE_TENSOR:
        return TensorInfo((1, *tensor.shape[1:]), FLOAT32, tensor_bytes(tensor))
    return TensorInfo(
        tensor.shape, PLAIN_DTYPES.get(GGMLQuantizationType(tensor.ggml_type), FLOAT32), tensor_bytes(tensor)
    )


def tensor_bytes(tensor: GGUFTensor) -> int:
    """Return the bytes that the tensor occupies in the file."""
    block_values, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
    return prod(tensor.shape) // block_values * block_bytes


def check_tensors(tensors: dict[str, GGUFTensor], file_bytes: int, path: Path) -> None:
    """Check that every tensor is of a known type and of whole blocks, lies in the file, and overlaps none.

    Raises BadCheckpoint, naming the tensor.
    """
    for kind in {tensor.ggml_type: tensor for tensor in tensors.values()}.values():
        _check_ggml_type(kind, path)
    end, previous_name = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        block_values, _ = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
        if tensor.shape[-1] % block_values:
            raise BadCheckpoint(f"{path}: rows of tensor {tensor.name!r} are no multiple of {block_values} values.")
        size = tensor_bytes(tensor)
        if tensor.offset + size > file_bytes:
            raise BadCheckpoint(f"{path}: tensor {tensor.name!r} runs past the end of the file; is it cut short?")
        if size and tensor.offset < end:
            raise BadCheckpoint(f"{path}: tensors {previous_name!r} and {tensor.name!r} overlap.")
        end, previous_name = max(end, tensor.offset + size), tensor.name


def _check_ggml_type(tensor: GGUFTensor, path: Path) -> None:
    """Unpack one block of zeros: the package has no other list of the types that it unpacks."""
    try:
        kind = GGMLQuantizationType(tensor.ggml_type)
        if kind not in PLAIN_DTYPES:
            with np.errstate(all="ignore"):
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        raise BadCheckpoint(
            f"{path}: tensor {tensor.name!r} has block type {tensor.ggml_type}, unknown to us."
        ) from None


def undo_rotary_permutation(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of interleaved order (pairs side by side) in half-split order (first halves, then second ones)."""
    num_rows = rows.shape[0]
    pairs = rows.reshape(heads, num_rows // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(num_rows, -1)


def dequantize_blocks(blocks: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Return the values of uint8[rows …, blocks, bytes of a block], a new float32[rows …, values of a row]."""
    *front, num_blocks, block_bytes = blocks.shape
    block_values, _ = GGML_QUANT_SIZES[kind]
    values = aligned_empty((prod(front) * num_blocks * block_values,), FLOAT32)
    raw = blocks.reshape(-1)
    slab_blocks = max(SLAB_VALUES // block_values, 1)
    with np.errstate(all="ignore"):  # a hostile scale may be infinite; that is the model's business, not a warning
        for first in range(0, raw.size // block_bytes, slab_blocks):
            slab = raw[first * block_bytes : (first + slab_blocks) * block_bytes].reshape(1, -1)
            out = dequantize(slab, kind).reshape(-1)
            values[first * block_values : first * block_values + out.size] = out
    return values.reshape(*front, num_blocks * block_values)


def _column_range(tensor: GGUFTensor, part: FilePart) -> tuple[int, int]:
    """Return start and stop along the last axis: all of it where the part does not say."""
    columns = part[-1] if len(part) == len(tensor.shape) else slice(None)
    assert isinstance(columns, slice)
    start, stop, step = columns.indices(tensor.shape[-1])
    assert step == 1, tensor.name
    return start, stop
