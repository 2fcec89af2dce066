"""The pages of all layers on the device, in the layout of the attention backend that reads them.

pool.py keeps account of pages; the backend's `write` puts tokens into their slots.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Protocol

import jax

from jaxserve.cache.groups import CacheGroup, index_groups
from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues


class PageFactory(Protocol):
    """The part of an attention backend that makes pages."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> Any:
        """Return the zeroed pages of one layer, a pytree of arrays."""
        ...


def make_pages(
    backend: PageFactory, groups: Sequence[CacheGroup], *, num_pages: Sequence[int], page_size: int, dtype: Any
) -> tuple[Any, ...]:
    """Return one pytree of zeroed pages a layer: keys and values for as many pages as its group has.

    Zeros, because attention multiplies masked values by zero, and zero times NaN is NaN.

    num_pages   the number of pages of each group
    """
    return tuple(
        _make_layer_pages(backend, groups[group].cache, num_pages[group], page_size, dtype)
        for group in index_groups(groups)
    )


def bytes_per_page(backend: PageFactory, group: CacheGroup, *, page_size: int, dtype: Any) -> int:
    """Return the bytes of one page in all layers of a group, as the backend stores it: some backends pad heads.

    Allocates nothing. Raises what the backend raises for layers that it cannot hold.
    """
    pages = jax.eval_shape(partial(_make_layer_pages, backend, group.cache, 1, page_size, dtype))
    return len(group.layers) * _num_bytes(pages)


def _make_layer_pages(backend: PageFactory, layer: LayerCache, num_pages: int, page_size: int, dtype: Any) -> Any:
    assert isinstance(layer, PagedKeysValues), layer
    return backend.make_pages(num_pages, page_size, layer.num_kv_heads, layer.head_dim, dtype)


def _num_bytes(arrays: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
