"""MXFP4: experts of a safetensors checkpoint as four-bit floats, 32 of which share a power of two (gpt-oss).

A tensor NAME that is packed is stored as NAME_blocks uint8 [experts, out, in / 32, 16], whose bytes hold two numbers
each, the low half first, and NAME_scales uint8 [experts, out, in / 32], exponents of 2 plus 127. Format: Open Compute
Project, Microscaling Formats, version 1.0. Here both are the tensor NAME [experts, in, out] of the checkpoint without
packing, in bfloat16, which holds every such number that is finite exactly.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.weights.float4 import decode_powers, unpack_float4
from jaxserve.weights.protocol import Checkpoint, TensorInfo

BLOCK = 32
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def is_packed(hf_config: Mapping[str, Any]) -> bool:
    """Return whether a config.json says that some tensors are in MXFP4."""
    quantization = hf_config.get("quantization_config")
    return isinstance(quantization, Mapping) and quantization.get("quant_method") == "mxfp4"


class MXFP4Checkpoint:
    """A checkpoint whose packed tensors are read as bfloat16, beside those that are not packed."""

    has_param_layout = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.path: Path = checkpoint.path
        self.config, self.generation_config = checkpoint.config, checkpoint.generation_config
        stored = checkpoint.tensors
        self._packed = {name.removesuffix("_blocks") for name in stored if name.endswith("_blocks")}
        parts = {f"{name}{suffix}" for name in self._packed for suffix in ("_blocks", "_scales")}
        self.tensors = {name: info for name, info in stored.items() if name not in parts}
        for name in sorted(self._packed):
            if name in stored:
                raise BadCheckpoint(f"{self.path}: tensor {name[:200]!r} is there twice, once in MXFP4.")
            self.tensors[name] = _describe(self.path, name, stored)

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of a tensor's values: of a packed one its blocks, made numbers for the caller."""
        if name not in self._packed:
            return self._checkpoint.read(name, part)
        experts, inputs, outputs = part or (slice(None),) * 3
        first, last, step = inputs.indices(self.tensors[name].shape[1])
        blocks = slice(first // BLOCK, -(-last // BLOCK))
        code_EOBX = self._checkpoint.read(f"{name}_blocks", (experts, outputs, blocks))
        scale_EOB = self._checkpoint.read(f"{name}_scales", (experts, outputs, blocks))
        value_EOI = np.empty((*scale_EOB.shape[:2], scale_EOB.shape[2] * BLOCK), BFLOAT16)
        for value_OI, code_OBX, scale_OB in zip(value_EOI, code_EOBX, scale_EOB, strict=True):
            value_OI[:] = dequantize(code_OBX, scale_OB)
        offset = blocks.start * BLOCK
        return value_EOI[:, :, first - offset : last - offset : step].swapaxes(1, 2)

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> None:
        """Return None: no weight is packed in this form here."""

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's part of the file takes."""
        for stored in (f"{name}_blocks", f"{name}_scales") if name in self._packed else (name,):
            self._checkpoint.release(stored)


def dequantize(code_OBX: np.ndarray, scale_OB: np.ndarray) -> np.ndarray:
    """Return the numbers of blocks, float32 [O, B * 32]."""
    with np.errstate(invalid="ignore", over="ignore"):
        value_OBK = unpack_float4(code_OBX) * decode_powers(scale_OB)[..., None]
    return value_OBK.reshape(len(value_OBK), -1)


def _describe(path: Path, name: str, stored: Mapping[str, TensorInfo]) -> TensorInfo:
    """Return the packed tensor as it is read. Raises BadCheckpoint unless its blocks and scales fit each other."""
    blocks, scales = stored[f"{name}_blocks"], stored.get(f"{name}_scales")
    if scales is None:
        raise BadCheckpoint(f"{path}: tensor {name[:200]!r} in MXFP4 has blocks and no scales.")
    has_shapes = len(scales.shape) == 3 and blocks.shape == (*scales.shape, BLOCK // 2)
    if not has_shapes or {blocks.dtype, scales.dtype} != {np.dtype(np.uint8)}:
        raise BadCheckpoint(
            f"{path}: tensor {name[:200]!r} in MXFP4 has blocks {blocks.shape} and scales {scales.shape}; they should "
            f"be bytes, [experts, out, in / {BLOCK}, {BLOCK // 2}] and [experts, out, in / {BLOCK}]."
        )
    num_experts, width_out, num_blocks = scales.shape
    return TensorInfo((num_experts, num_blocks * BLOCK, width_out), BFLOAT16, blocks.nbytes + scales.nbytes)
