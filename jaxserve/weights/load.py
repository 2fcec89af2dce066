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
from jaxserve.layers.quant import GROUP_SIZE, PackedWeight, pack_blocks, quantize
from jaxserve.weights.mapped_file import aligned_empty, is_zero_copyable
from jaxserve.weights.protocol import Checkpoint, TensorInfo

ParamPath: TypeAlias = tuple[Any, ...]
ProgressCallback: TypeAlias = Callable[[str, float, float], None]

MAX_THREADS = 8
# A transposed matrix is copied this many columns at a time: twice the speed of one copy, four times with a cast.
BLOCK_COLUMNS = 64
SLAB_VALUES = 1 << 16  # packed at a time: a slab and its scratch stay in cache
# Tables that old checkpoints carry and that every model computes for itself.
ALWAYS_IGNORED = ("*.rotary_emb.inv_freq",)


class LoadableParam(Protocol):
    """Where one parameter comes from (jaxserve.models.spec.ParamSpec is one)."""

    @property
    def tensor_name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def transform(self) -> Callable[[np.ndarray], np.ndarray]: ...


Weight: TypeAlias = jax.Array | PackedWeight


def check_checkpoint(
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, LoadableParam],
    targets: Mapping[ParamPath, Any],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Refuses a checkpoint in which a tensor is missing, surplus, misshapen or no float. Reads no tensor.

    ignored: patterns (as in fnmatch) of tensors that may be there and are not wanted.
    """
    expected = _expected_shapes(checkpoint, params, targets)
    names = set(checkpoint.tensors)
    patterns = (*ignored, *ALWAYS_IGNORED)
    surplus = [n for n in names - set(expected) if not any(fnmatchcase(n, pattern) for pattern in patterns)]
    if missing := sorted(set(expected) - names):
        raise BadCheckpoint(f"{checkpoint.path} lacks tensor {_listed(missing)} that this architecture needs.")
    if surplus:
        raise BadCheckpoint(f"{checkpoint.path} has tensor {_listed(sorted(surplus))} that this architecture lacks.")
    for name, shape in expected.items():
        _check_tensor(checkpoint, name, checkpoint.tensors[name], shape)


def load_params(
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, LoadableParam],
    targets: Mapping[ParamPath, Any],
    *,
    ignored: Iterable[str] = ("*",),
    progress: ProgressCallback | None = None,
    num_threads: int | None = None,
) -> dict[ParamPath, Weight]:
    """Every leaf as an array on its device, in the type and with the sharding (if any) that `targets` asks for.

    Where `targets` asks for a packed weight, blocks of the same form are taken from the file as they are; anything
    else is packed, some rows at a time.
    Checks once more what it needs; surplus tensors are for `check_checkpoint` to refuse, unless `ignored`
    is given here too.
    progress hears ("load", bytes read, bytes in all). Largest tensors first: scratch is taken while little else is.
    """
    check_checkpoint(checkpoint, params, targets, ignored=ignored)
    sizes = {path: checkpoint.tensors[_stored_name(checkpoint, path, leaf)].nbytes for path, leaf in params.items()}
    order = sorted(params, key=lambda path: -sizes[path])
    total, done = max(sum(sizes.values()), 1), 0
    loaded: dict[ParamPath, Weight] = {}
    pool = ThreadPoolExecutor(num_threads or min(MAX_THREADS, os.cpu_count() or 1), "weights")
    try:
        futures = {pool.submit(_load_param, checkpoint, path, params[path], targets[path]): path for path in order}
        for future in as_completed(futures):
            path = futures.pop(future)
            loaded[path] = future.result()
            done += sizes[path]
            if progress:
                progress("load", done, total)
        for name in {_stored_name(checkpoint, path, leaf) for path, leaf in params.items()}:
            checkpoint.release(name)  # again: a page of the file may be huge, and reading a neighbour brought it back
    finally:
        pool.shutdown(cancel_futures=True)
    return {path: loaded[path] for path in params}


def _load_param(checkpoint: Checkpoint, path: ParamPath, param: LoadableParam, target: Any) -> Weight:
    name = _stored_name(checkpoint, path, param)
    if isinstance(target, PackedWeight):
        host = _pack_tensor(checkpoint, name, param, target)
        checkpoint.release(name)
        return replace(target, data=_put_on_device(host, getattr(target.data, "sharding", None)))
    values = checkpoint.read(name)
    values = values if checkpoint.has_param_layout else param.transform(values)
    assert values.shape == target.shape, f"{name}: the layout function made {values.shape}, not {target.shape}"
    host = _convert(values, np.dtype(target.dtype))
    del values
    checkpoint.release(name)
    return _put_on_device(host, getattr(target, "sharding", None))


def _pack_tensor(checkpoint: Checkpoint, name: str, param: LoadableParam, target: PackedWeight) -> np.ndarray:
    """The weight in the layout of its kernel."""
    data = aligned_empty(target.data.shape, np.dtype(np.uint8))
    blocks = checkpoint.read_blocks(name, target.kind)
    if blocks is not None:
        pack_blocks(blocks, data)
        return data
    values_OI = checkpoint.read(name)
    if checkpoint.has_param_layout:
        values_OI = param.transform(values_OI)
    assert values_OI.shape == (target.width_out, target.width_in), f"{name} is {values_OI.shape}, not {target}"
    slab_groups = max(SLAB_VALUES // target.width_in // GROUP_SIZE, 1)
    for first in range(0, len(data), slab_groups):
        rows_OI = values_OI[first * GROUP_SIZE : (first + slab_groups) * GROUP_SIZE]
        pack_blocks(quantize(rows_OI, target.kind), data[first : first + slab_groups])
    return data


def _put_on_device(host: np.ndarray, sharding: Any) -> jax.Array:
    array = jax.device_put(host, sharding)
    array.block_until_ready()  # the host's copy may go before this thread makes the next one
    return array


def _convert(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in a buffer that JAX may keep: the same one if it is fit for that, else one copy."""
    if values.dtype == dtype and is_zero_copyable(values):
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


def _stored_name(checkpoint: Checkpoint, path: ParamPath, param: LoadableParam) -> str:
    return param_name(path) if checkpoint.has_param_layout else param.tensor_name


def param_name(path: ParamPath) -> str:
    """The name of a leaf in a checkpoint of placed leaves."""
    return ".".join(map(str, path))


def _expected_shapes(
    checkpoint: Checkpoint, params: Mapping[ParamPath, LoadableParam], targets: Mapping[ParamPath, Any]
) -> dict[str, tuple[int, ...]]:
    """Tensor name → the shape it must have in this checkpoint."""
    if checkpoint.has_param_layout:
        return {param_name(path): _param_shape(leaf, targets[path]) for path, leaf in params.items()}
    return {leaf.tensor_name: tuple(leaf.shape) for leaf in params.values()}


def _param_shape(param: LoadableParam, target: Any) -> tuple[int, ...]:
    if isinstance(target, PackedWeight):
        return param.transform(np.broadcast_to(np.float32(0), param.shape)).shape
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
