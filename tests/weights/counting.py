"""A checkpoint that counts what is read of it."""

import threading
from math import prod

import numpy as np

from jaxserve.layers.block_forms import BLOCK_SIZE, PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import QuantizedBlocks
from jaxserve.weights.protocol import Checkpoint, holds_leaves


class CountingCheckpoint:
    """A checkpoint, and how much of it was read.

    num_values   Values that readers returned, those of blocks too.
    num_bytes    The bytes that they take in the file.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._lock = checkpoint, threading.Lock()
        self.path, self.has_param_layout = checkpoint.path, checkpoint.has_param_layout
        self.config, self.generation_config = checkpoint.config, checkpoint.generation_config
        self.tensors, self.release = checkpoint.tensors, checkpoint.release
        self.num_values, self.num_bytes = 0, 0.0

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        values = self._checkpoint.read(name, part)
        self._count(name, values.size)
        return values

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> QuantizedBlocks | None:
        blocks = self._checkpoint.read_blocks(name, kind, part)
        if blocks is not None:
            self._count(name, blocks.scale_OB.size * BLOCK_SIZE)
        return blocks

    def read_packed(self, name: str, kind: PackedKind, part: Part) -> np.ndarray | None:
        assert holds_leaves(self._checkpoint)
        data = self._checkpoint.read_packed(name, kind, part)
        if data is not None:
            self._count(name, data.size * prod(self.tensors[name].shape) // self.tensors[name].nbytes)
        return data

    def _count(self, name: str, num_values: int) -> None:
        info = self._checkpoint.tensors[name]
        with self._lock:
            self.num_values += num_values
            self.num_bytes += num_values / max(prod(info.shape), 1) * info.nbytes
