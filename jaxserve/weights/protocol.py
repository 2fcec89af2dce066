"""Checkpoint: the interface of all formats.

A checkpoint is opened (headers read and checked against the length of the file, nothing allocated), asked for its
config and the names and shapes of its tensors, and then read part by part, from several threads if one likes.
Names and layouts are those of Hugging Face checkpoints, whatever the file holds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np

from jaxserve.config import MIB
from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import QuantizedBlocks
from jaxserve.model_files import read_model_file

MAX_JSON_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as `read` returns it; nbytes is what it occupies in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int


class Checkpoint(Protocol):
    """An opened model. `has_param_layout` means: tensors lie in the layout of the parameters, named by their paths."""

    path: Path
    has_param_layout: bool
    config: dict[str, Any]
    generation_config: dict[str, Any]

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Return every tensor by its name."""
        ...

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of the tensor's values: a read-only view into the file, or an array made for the caller.

        Nothing else of the tensor is read, except what the format keeps in one piece with the part: the rest of blocks
        and chunks.
        """
        ...

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> QuantizedBlocks | None:
        """Return a part of the tensor's blocks, [out, in], if the file holds them in that form; else None.

        Of a stack: the outputs of all its matrices, one after the other. The part is of whole blocks.
        """
        ...

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's part of the file takes; the caller has read it."""
        ...


class LeafCheckpoint(Checkpoint, Protocol):
    """An opened checkpoint whose `has_param_layout` is true: it holds leaves, which may be packed already."""

    def read_packed(self, name: str, kind: PackedKind, part: Part) -> np.ndarray | None:
        """Return the data uint8 [..., groups, blocks, bytes] of a part of a leaf that is packed so; else None.

        part   in the layout of the leaf; whole blocks of inputs, and whole groups of outputs but for the last one.
        """
        ...


class BlockCheckpoint(Checkpoint, Protocol):
    """An opened .gguf file, whose tensors may be of types that have blocks."""

    def kind_of(self, name: str) -> PackedKind | None:
        """Return the packed form that holds the tensor's blocks as they are; None if there is none, or no tensor."""
        ...

    def type_of(self, name: str) -> str:
        """Return the name of the tensor's type, such as Q4_K."""
        ...

    def count_types(self) -> dict[str, int]:
        """Return how many tensors each type of blocks has."""
        ...


def holds_blocks(checkpoint: Checkpoint) -> TypeGuard[BlockCheckpoint]:
    """Return whether the checkpoint is a .gguf file, and no directory that is called so."""
    return checkpoint.path.suffix == ".gguf" and checkpoint.path.is_file()


def holds_leaves(checkpoint: Checkpoint) -> TypeGuard[LeafCheckpoint]:
    """Return whether the checkpoint holds leaves, instead of tensors as Hugging Face has them."""
    return checkpoint.has_param_layout


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a small JSON object from a model directory. Raises BadCheckpoint when it is anything else."""
    try:
        value = json.loads(read_model_file(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise BadCheckpoint(f"{path} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} should hold a JSON object, not a {type(value).__name__}.")
    return value
