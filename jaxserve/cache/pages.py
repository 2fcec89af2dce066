"""The pages of all layers on the device, in the layout of the attention backend that reads them.

pool.py keeps account of pages; the backend's `write` puts tokens into their slots.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Protocol

import jax

from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues


class PageFactory(Protocol):
    """The part of an attention backend that makes pages."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> Any:
        """Return the zeroed pages of one layer, a pytree of arrays."""
        ...


def make_pages(
    backend: PageFactory, layers: Sequence[LayerCache], *, num_pages: int, page_size: int, dtype: Any
) -> tuple[Any, ...]:
    """Return one pytree of zeroed pages a layer: keys and values for num_pages * page_size tokens each.

    Zeros, because attention multiplies masked values by zero, and zero times NaN is NaN.
    """
    return tuple(_make_layer_pages(backend, layer, num_pages, page_size, dtype) for layer in layers)


def bytes_per_page(backend: PageFactory, layers: Sequence[LayerCache], *, page_size: int, dtype: Any) -> int:
    """Return the bytes of one page in all layers, as the backend stores it: some backends pad heads.

    Allocates nothing. Raises what the backend raises for layers that it cannot hold.
    """
    bytes_of = {
        layer: _num_bytes(jax.eval_shape(partial(_make_layer_pages, backend, layer, 1, page_size, dtype)))
        for layer in set(layers)
    }
    return sum(bytes_of[layer] for layer in layers)


def _make_layer_pages(backend: PageFactory, layer: LayerCache, num_pages: int, page_size: int, dtype: Any) -> Any:
    assert isinstance(layer, PagedKeysValues), layer
    return backend.make_pages(num_pages, page_size, layer.num_kv_heads, layer.head_dim, dtype)


def _num_bytes(arrays: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
