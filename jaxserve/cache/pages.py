"""The pages of all layers on the device, in the layout of the attention backend that reads them.

A page of recurrent layers is the state of one sequence (a slot): arrays [slots, ...], whatever the backend.
pool.py keeps account of pages; the backend's `write` puts tokens into their slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxserve.cache.groups import CacheGroup, locate_layers
from jaxserve.cache.layer_cache import OwnCache, PagedKeysValues, PagedLatent, RecurrentState


class PageFactory(Protocol):
    """The part of an attention backend that makes pages."""

    stacks_layers: bool

    @property
    def latent(self) -> Any:
        """The part that makes pages of latent vectors; see LatentBackend."""
        ...

    @property
    def max_pages(self) -> Any:
        """The function that returns the most pages of a layer; see AttentionBackend."""
        ...

    @property
    def make_pages(self) -> Any:
        """The function that returns zeroed pages, a pytree of arrays; see AttentionBackend."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class ModelPages:
    """The pages of all layers.

    groups   Those of each cache group: one pytree for each of its layers, or one for all of them, if the backend stacks
             layers. Those of a recurrent layer are a tuple with its arrays, [slots, ...] each.
    places   Static, for each layer the index of its group and its own index in that.
    """

    groups: tuple[Any, ...]
    places: tuple[tuple[int, int], ...] = field(metadata={"static": True})

    def get(self, layer: int) -> Any:
        """Return one layer's pages."""
        group, index = self.places[layer]
        pages = self.groups[group]
        return pages[index] if isinstance(pages, tuple) else pages.at_layer(index)

    def set(self, layer: int, layer_pages: Any) -> "ModelPages":
        """Return the pages after those of one layer were written."""
        group, index = self.places[layer]
        pages = self.groups[group]
        new = (*pages[:index], layer_pages, *pages[index + 1 :]) if isinstance(pages, tuple) else layer_pages.at_rest()
        return ModelPages((*self.groups[:group], new, *self.groups[group + 1 :]), self.places)


@dataclass(frozen=True, slots=True)
class CacheTypes:
    """The types of what caches hold.

    pages    of keys, values and latent vectors
    states   of the states of recurrent layers that name none
    """

    pages: Any
    states: Any


def make_pages(
    backend: PageFactory, groups: Sequence[CacheGroup], *, num_pages: Sequence[int], page_size: int, types: CacheTypes
) -> ModelPages:
    """Return zeroed pages: the caches of every layer for as many pages as its group has.

    Zeros, because attention multiplies masked values by zero, and zero times NaN is NaN.

    num_pages   the number of pages of each group
    """
    pages = (
        _make_group_pages(backend, group, num, page_size, types) for group, num in zip(groups, num_pages, strict=True)
    )
    return ModelPages(tuple(pages), locate_layers(groups))


def _make_group_pages(
    backend: PageFactory, group: CacheGroup, num_pages: int, page_size: int, types: CacheTypes
) -> Any:
    make = partial(_make_layer_pages, backend, group.cache, num_pages, page_size, types)
    if backend.stacks_layers and isinstance(group.cache, PagedKeysValues):
        return make(num_layers=len(group.layers))
    return tuple(make() for _ in group.layers)


def bytes_per_page(backend: PageFactory, group: CacheGroup, *, page_size: int, types: CacheTypes) -> int:
    """Return the bytes of one page in all layers of a group, as the backend stores it: some pad heads, and 8-bit
    numbers have scales.

    For recurrent layers: the bytes of one slot.

    Allocates nothing. Raises what the backend raises for layers that it cannot hold.
    """
    pages = jax.eval_shape(partial(_make_layer_pages, backend, group.cache, 1, page_size, types))
    return len(group.layers) * _num_bytes(pages)


def max_pages(backend: PageFactory, group: CacheGroup, *, page_size: int, types: CacheTypes) -> int | None:
    """Return the most pages of a group that the backend can address; None: any number."""
    cache = group.cache
    if not isinstance(cache, PagedKeysValues):
        return None
    return backend.max_pages(page_size, cache.num_kv_heads, cache.head_dim, types.pages)


def _make_layer_pages(
    backend: PageFactory, layer: OwnCache, num_pages: int, page_size: int, types: CacheTypes, **options: int
) -> Any:
    if isinstance(layer, RecurrentState):
        return tuple(jnp.zeros((num_pages, *array.shape), array.dtype or types.states) for array in layer.arrays)
    if isinstance(layer, PagedLatent):
        return backend.latent.make_pages(num_pages, page_size, layer.latent_dim, layer.rotary_dim, types.pages)
    return backend.make_pages(num_pages, page_size, layer.num_kv_heads, layer.head_dim, types.pages, **options)


def _num_bytes(arrays: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
