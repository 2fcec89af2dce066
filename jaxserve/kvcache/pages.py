"""The device side: every layer's pages, in the layout of the attention backend that reads them.

Who holds which page is pool.py's affair; how a token gets into its slot is the backend's (`write`).
"""

from functools import partial
from math import prod
from typing import Any, Protocol

import jax


class MakesPages(Protocol):
    """The part of an attention backend that is needed here."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> Any: ...


def make_pages(
    backend: MakesPages, *, num_layers: int, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any
) -> tuple[Any, ...]:
    """One pytree of zeroed pages a layer: keys and values for num_pages * page_size tokens each.

    Zeros, because masked attention multiplies what it does not want by zero, and NaN survives that.
    """
    return tuple(backend.make_pages(num_pages, page_size, kv_heads, head_dim, dtype) for _ in range(num_layers))


def bytes_per_page(
    backend: MakesPages, *, num_layers: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any
) -> int:
    """What one page costs in all layers, as the backend stores it: some hold a head in more room than it has numbers.

    Makes nothing. Raises what the backend raises for a network that it cannot hold.
    """
    layer = jax.eval_shape(partial(backend.make_pages, 1, page_size, kv_heads, head_dim, dtype))
    return num_layers * sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(layer))
