"""For each leaf: find, read, lay out, convert, place on its device. Checked as a whole before anything is read.

Tensors pass through one by one, a few at a time in threads, so the host holds the weights once and little beside. On
the CPU a converted tensor is handed to JAX without a copy. What a leaf is, the models say; this room only sees its
name, its shape in the checkpoint and the function that lays it out.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.quant import GROUP, Packed, lay_out, quantise
from jaxserve.weights.mapped import aligned_empty, is_adoptable
from jaxserve.weights.protocol import Checkpoint, TensorInfo

LeafPath: TypeAlias = tuple[Any, ...]
Progress: TypeAlias = Callable[[str, float, float], None]

MAX_THREADS = 8
# A transposed matrix is copied this many columns at a time: twice the speed of one copy, four times with a cast.
BLOCK_COLUMNS = 64
SLAB_VALUES = 1 << 16  # packed at a time: a slab and its scratch stay in cache
# Tables that old checkpoints carry and that every model computes for itself.
ALWAYS_IGNORED = ("*.rotary_emb.inv_freq",)


class Leaf(Protocol):
    """Where one parameter comes from (jaxserve.models.spec.Leaf is one)."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def place(self) -> Callable[[np.ndarray], np.ndarray]: ...


Weight: TypeAlias = jax.Array | Packed


def check(
    checkpoint: Checkpoint,
    leaves: Mapping[LeafPath, Leaf],
    abstract: Mapping[LeafPath, Any],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Refuses a checkpoint in which a tensor is missing, surplus, misshapen or no float. Reads no tensor.

    ignored: patterns (as in fnmatch) of tensors that may be there and are not wanted.
    """
    expected = _expected(checkpoint, leaves, abstract)
    names = set(checkpoint.tensors)
    patterns = (*ignored, *ALWAYS_IGNORED)
    surplus = [n for n in names - set(expected) if not any(fnmatchcase(n, pattern) for pattern in patterns)]
    if missing := sorted(set(expected) - names):
        raise BadCheckpoint(f"{checkpoint.path} lacks tensor {_listed(missing)} that this architecture needs.")
    if surplus:
        raise BadCheckpoint(f"{checkpoint.path} has tensor {_listed(sorted(surplus))} that this architecture lacks.")
    for name, shape in expected.items():
        _check_tensor(checkpoint, name, checkpoint.tensors[name], shape)


def load(
    checkpoint: Checkpoint,
    leaves: Mapping[LeafPath, Leaf],
    abstract: Mapping[LeafPath, Any],
    *,
    ignored: Iterable[str] = ("*",),
    progress: Progress | None = None,
    num_threads: int | None = None,
) -> dict[LeafPath, Weight]:
    """Every leaf as an array on its device, in the type and with the sharding (if any) that `abstract` asks for.

    Where `abstract` asks for a packed weight, blocks of the same form are taken from the file as they are; anything
    else is packed, some rows at a time.
    Checks once more what it needs; surplus tensors are for `check` to refuse, unless `ignored` is given here too.
    progress hears ("load", bytes read, bytes in all). Largest tensors first: scratch is taken while little else is.
    """
    check(checkpoint, leaves, abstract, ignored=ignored)
    sizes = {path: checkpoint.tensors[_name(checkpoint, path, leaf)].nbytes for path, leaf in leaves.items()}
    order = sorted(leaves, key=lambda path: -sizes[path])
    total, done = max(sum(sizes.values()), 1), 0
    loaded: dict[LeafPath, Weight] = {}
    pool = ThreadPoolExecutor(num_threads or min(MAX_THREADS, os.cpu_count() or 1), "weights")
    try:
        futures = {pool.submit(_load_leaf, checkpoint, path, leaves[path], abstract[path]): path for path in order}
        for future in as_completed(futures):
            path = futures.pop(future)
            loaded[path] = future.result()
            done += sizes[path]
            if progress:
                progress("load", done, total)
        for name in {_name(checkpoint, path, leaf) for path, leaf in leaves.items()}:
            checkpoint.release(name)  # again: a page of the file may be huge, and reading a neighbour brought it back
    finally:
        pool.shutdown(cancel_futures=True)
    return {path: loaded[path] for path in leaves}


def _load_leaf(checkpoint: Checkpoint, path: LeafPath, leaf: Leaf, target: Any) -> Weight:
    name = _name(checkpoint, path, leaf)
    if isinstance(target, Packed):
        host = _packed(checkpoint, name, leaf, target)
        checkpoint.release(name)
        return replace(target, data=_put(host, getattr(target.data, "sharding", None)))
    values = checkpoint.read(name)
    values = values if checkpoint.placed else leaf.place(values)
    assert values.shape == target.shape, f"{name}: the layout function made {values.shape}, not {target.shape}"
    host = _converted(values, np.dtype(target.dtype))
    del values
    checkpoint.release(name)
    return _put(host, getattr(target, "sharding", None))


def _packed(checkpoint: Checkpoint, name: str, leaf: Leaf, target: Packed) -> np.ndarray:
    """The weight in the layout of its kernel."""
    data = aligned_empty(target.data.shape, np.dtype(np.uint8))
    blocks = checkpoint.blocks(name, target.kind)
    if blocks is not None:
        lay_out(blocks, data)
        return data
    values_OI = checkpoint.read(name)
    if checkpoint.placed:
        values_OI = leaf.place(values_OI)
    assert values_OI.shape == (target.width_out, target.width_in), f"{name} is {values_OI.shape}, not {target}"
    at_once = max(SLAB_VALUES // target.width_in // GROUP, 1)
    for first in range(0, len(data), at_once):
        rows_OI = values_OI[first * GROUP : (first + at_once) * GROUP]
        lay_out(quantise(rows_OI, target.kind), data[first : first + at_once])
    return data


def _put(host: np.ndarray, sharding: Any) -> jax.Array:
    array = jax.device_put(host, sharding)
    array.block_until_ready()  # the host's copy may go before this thread makes the next one
    return array


def _converted(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in a buffer that JAX may keep: the same one if it is fit for that, else one copy."""
    if values.dtype == dtype and is_adoptable(values):
        return values
    out = aligned_empty(values.shape, dtype)
    columns = values.shape[1] if values.ndim == 2 and values.T.flags.c_contiguous else 0
    with np.errstate(all="ignore"):
        if columns <= BLOCK_COLUMNS:
            np.copyto(out, values, casting="unsafe")
            return out
        for first in range(0, columns, BLOCK_COLUMNS):  # astype keeps the block's order, so it casts in a straight line
            block = values[:, first : first + BLOCK_COLUMNS]
            out[:, first : first + BLOCK_COLUMNS] = block.astype(dtype, copy=False)
    return out


def _name(checkpoint: Checkpoint, path: LeafPath, leaf: Leaf) -> str:
    return placed_name(path) if checkpoint.placed else leaf.name


def placed_name(path: LeafPath) -> str:
    """The name of a leaf in a checkpoint of placed leaves."""
    return ".".join(map(str, path))


def _expected(
    checkpoint: Checkpoint, leaves: Mapping[LeafPath, Leaf], abstract: Mapping[LeafPath, Any]
) -> dict[str, tuple[int, ...]]:
    """Tensor name → the shape it must have in this checkpoint."""
    if checkpoint.placed:
        return {placed_name(path): _placed_shape(leaf, abstract[path]) for path, leaf in leaves.items()}
    return {leaf.name: tuple(leaf.shape) for leaf in leaves.values()}


def _placed_shape(leaf: Leaf, target: Any) -> tuple[int, ...]:
    if isinstance(target, Packed):
        return leaf.place(np.broadcast_to(np.float32(0), leaf.shape)).shape
    return tuple(target.shape)


def _check_tensor(checkpoint: Checkpoint, name: str, info: TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape:
        raise BadCheckpoint(f"{checkpoint.path}: tensor {name!r} has shape {info.shape}; the config asks for {shape}.")
    if not jax.numpy.issubdtype(info.dtype, jax.numpy.floating):
        raise BadCheckpoint(
            f"{checkpoint.path}: tensor {name!r} is {info.dtype}; packed weights of that kind are not supported."
        )


def _listed(names: list[str]) -> str:
    """The first name, and how many more."""
    return repr(names[0][:200]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
