"""Kernels for TPUs in JAX's TPU interpreter, which looks for races, unwritten memory and reads out of bounds.

`reads_views` adds what it lacks (jax 0.10.2) for JAX's ragged paged attention kernel.
"""

import contextlib

import jax
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call, utils
from jax._src.state.types import BitcastTransform, ReshapeTransform
from jax.experimental.pallas import tpu as pltpu

V5E = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
STRICT = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise")


def interpret(function):
    """The function, as for a v5e and compiled in a hurry, with a check that nothing raced."""

    def run(*arguments):
        mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=V5E)
        with jax.sharding.use_abstract_mesh(mesh):
            out = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*arguments)
            jax.block_until_ready(out)
        assert not interpret_pallas_call.races.races_found
        return out

    return run


@contextlib.contextmanager
def reads_views():
    """A context in which the interpreter reads reshaped and bit-cast references, and stores under any mask."""
    before = interpret_pallas_call.get, interpret_pallas_call.swap
    interpret_pallas_call.get, interpret_pallas_call.swap = _read_view, _store_masked
    try:
        yield
    finally:
        interpret_pallas_call.get, interpret_pallas_call.swap = before


_get, _swap = interpret_pallas_call.get, interpret_pallas_call.swap


def _read_view(token, device, core, space, buffer, transforms, *rest, **named):
    """Read through the plain indices that stand first, and do the other transforms in numpy."""
    views = (BitcastTransform, ReshapeTransform)
    plain = next((index for index, each in enumerate(transforms) if isinstance(each, views)), len(transforms))
    token, array = _get(token, device, core, space, buffer, tuple(transforms[:plain]), *rest, **named)
    for each in jax.tree.map(int, tuple(transforms[plain:])):
        if isinstance(each, ReshapeTransform):
            array = array.reshape(each.shape)
        elif isinstance(each, BitcastTransform):
            array = _bitcast(array, np.dtype(each.dtype))
        else:
            array = array[tuple(utils._transform_slice_or_index(index) for index in each.indices)]
    return token, array if array.ndim == 0 else np.ascontiguousarray(array)


_read_view.__wrapped__ = _get.__wrapped__  # by which copies read


def _bitcast(array, dtype):
    """Join rows of narrow numbers into one row of wide ones, the first row in the low bits."""
    num_rows = dtype.itemsize // array.dtype.itemsize
    bits, wide = np.dtype(f"uint{8 * array.dtype.itemsize}"), np.dtype(f"uint{8 * dtype.itemsize}")
    *outer, rows, lanes = array.shape
    number = np.ascontiguousarray(array).view(bits).astype(wide).reshape(*outer, rows // num_rows, num_rows, lanes)
    shift = (8 * bits.itemsize * np.arange(num_rows, dtype=wide))[:, None]
    return np.bitwise_or.reduce(number << shift, axis=-2).view(dtype)


def _store_masked(token, device, core, space, buffer, transforms, value, mask, **named):
    """Read, merge and store whole: under a mask all axes are held to the bounds of the first one."""
    if mask is None:
        return _swap(token, device, core, space, buffer, transforms, value, None, **named)
    token, before = _get(token, device, core, space, buffer, transforms)
    mask, value = np.asarray(mask), np.asarray(value)
    token, _ = _swap(token, device, core, space, buffer, transforms, np.where(mask, value, before), None, **named)
    return token, np.where(mask, before, value)
