"""Leaves turned back into the tensors that a Hugging Face checkpoint has."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.param_spec import ParamPath, ParamSpec, Source
from jaxserve.weights.load import convert, expected_shapes, param_name
from jaxserve.weights.pending import PendingTensor
from jaxserve.weights.protocol import Checkpoint


def list_source_tensors(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], dtype: np.dtype | None
) -> list[PendingTensor]:
    """Return the tensors of the checkpoint without packing, under Hugging Face's names; nothing is read yet.

    dtype   The type of all tensors; None: each keeps that of its values.

    Raises BadCheckpoint if the leaves do not hold a whole tensor.
    """
    if checkpoint.has_param_layout:
        return _list_joined(checkpoint, params, dtype)
    tensors = []
    for name, shape in expected_shapes(checkpoint, params).items():
        target = dtype or stored_dtype([checkpoint.tensors[name].dtype])
        tensors.append(PendingTensor(name, shape, target, partial(_read_whole, checkpoint, name, target)))
    return tensors


def stored_dtype(dtypes: Sequence[np.dtype]) -> np.dtype:
    """Return the type that holds the values of all of these types, float32 for float64."""
    dtype = np.result_type(*dtypes)
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def _read_whole(checkpoint: Checkpoint, name: str, dtype: np.dtype) -> np.ndarray:
    values = convert(checkpoint.read(name), dtype)
    checkpoint.release(name)
    return values


def _list_joined(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], dtype: np.dtype | None
) -> list[PendingTensor]:
    """Return the tensors that the leaves are made of, each joined of all leaves that are a part of it."""
    pieces: dict[str, list[tuple[str, int | None, Source]]] = {}
    for path, param in params.items():
        origin = param.origins[0]
        for index, source in enumerate(origin.sources):
            expert = index if origin.combine == "stack" else None
            pieces.setdefault(source.name, []).append((param_name(path), expert, source))
    tensors = []
    for name, parts in pieces.items():
        shape = parts[0][2].shape
        if sum(prod(source.part_shape) for _, _, source in parts) < prod(shape):
            raise BadCheckpoint(
                f"{checkpoint.path} has only some rows of {name!r}, which the network does not need whole; it cannot "
                "be turned back into safetensors."
            )
        target = dtype or stored_dtype([checkpoint.tensors[leaf].dtype for leaf, _, _ in parts])
        tensors.append(PendingTensor(name, shape, target, partial(_join, checkpoint, parts, shape, target)))
    return tensors


def _join(
    checkpoint: Checkpoint, parts: list[tuple[str, int | None, Source]], shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    tensor = np.empty(shape, dtype)
    for leaf, expert, source in parts:
        whole = tuple(slice(0, size) for size in checkpoint.tensors[leaf].shape)
        values = checkpoint.read(leaf, whole if expert is None else (slice(expert, expert + 1), *whole[1:]))
        source.write(tensor, (values if expert is None else values[0]).astype(dtype, copy=False))
    return tensor
