"""Types of the numbers in pages: floats as they are, and 8-bit numbers with a scale beside the pages.

A scale belongs to the key, or the value, of one token and one head. So what is stored of a token depends on nothing but
the token, and a prompt gives the same pages in one chunk or in many, cached or not. Scales are float32: with heads of
128 they are 3 % of the memory, and bfloat16 would save half of that for a rounding more of every score.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.errors import BadConfig

SCALE_DTYPE = jnp.float32
# Values of kv_cache_dtype → the type of the numbers in pages; auto is that of the activations.
PAGE_TYPES = {
    **{"float32": jnp.float32, "float16": jnp.float16, "bfloat16": jnp.bfloat16, "int8": jnp.int8},
    **{"fp8": jnp.float8_e4m3fn, "fp8_e4m3": jnp.float8_e4m3fn, "fp8_e5m2": jnp.float8_e5m2},
}


def choose_page_type(kv_cache_dtype: str, dtype: Any) -> np.dtype:
    """Return the type of the numbers in pages, for a value of kv_cache_dtype and the type of the activations."""
    return np.dtype(PAGE_TYPES.get(kv_cache_dtype, dtype))


def has_scales(dtype: Any) -> bool:
    """Return whether numbers of this type are stored with scales: those of 8 bits."""
    return jnp.dtype(dtype).itemsize == 1


def largest_number(dtype: Any) -> float:
    """Return the largest number of a type of integers or floats."""
    return float(jnp.iinfo(dtype).max if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).max)


def quantize(x_TKH: Array, dtype: Any) -> tuple[Array, Array | None]:
    """Return numbers of this type, and the scale_TK that they are multiplied by; None for types without scales.

    The largest number of each token and head becomes the largest of the type. One that is no number makes the scale no
    number, so that it is not lost.
    """
    if not has_scales(dtype):
        return x_TKH.astype(dtype), None
    largest = largest_number(dtype)
    x_TKH = x_TKH.astype(SCALE_DTYPE)
    least = float(jnp.finfo(SCALE_DTYPE).tiny) * largest
    scale_TK = jnp.maximum(jnp.max(jnp.abs(x_TKH), axis=-1), least) / largest
    # XLA's maximum on CPUs drops NaN where it runs over vectors (jax 0.10.2).
    scale_TK = jnp.where(jnp.any(jnp.isnan(x_TKH), axis=-1), jnp.nan, scale_TK)
    x_TKH = x_TKH / scale_TK[..., None]
    return (jnp.round(x_TKH) if jnp.issubdtype(dtype, jnp.integer) else x_TKH).astype(dtype), scale_TK


def as_stored(dtype: Any) -> np.dtype:
    """Return the type that CPUs store numbers of a type as: bfloat16 and 8-bit floats as integers with the same bits.

    XLA for CPUs turns whole pages of such types into a wider one before it takes a few numbers from them, and back
    after it writes a few (jax 0.10.2).
    """
    number_type: np.dtype = np.dtype(dtype)
    is_moved_as_it_is = number_type.name in ("float32", "float16") or np.issubdtype(number_type, np.integer)
    return number_type if is_moved_as_it_is else np.dtype(f"uint{8 * number_type.itemsize}")


def to_stored(array: Array) -> Array:
    """Return an array as CPUs store it."""
    stored = as_stored(array.dtype)
    return array if stored == array.dtype else jax.lax.bitcast_convert_type(array, stored)


def from_stored(array: Array, dtype: Any) -> Array:
    """Return an array of numbers of this type from how CPUs store it."""
    return array if array.dtype == dtype else jax.lax.bitcast_convert_type(array, dtype)


def make_scales(shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array] | tuple[None, None]:
    """Return the scales of keys and of values, all zeros, or nothing for types without scales."""
    return (jnp.zeros(shape, SCALE_DTYPE), jnp.zeros(shape, SCALE_DTYPE)) if has_scales(dtype) else (None, None)


def check_latent_type(dtype: Any) -> None:
    """Raise BadConfig for the types that latent vectors are not stored in."""
    if has_scales(dtype):
        raise BadConfig(
            f"kv_cache_dtype: latent vectors are not stored as {jnp.dtype(dtype)}; try --kv-cache-dtype bfloat16, or"
            " auto."
        )
