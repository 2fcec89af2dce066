"""Groups of layers that keep the same kind of cache: each group has its own page ids, page table and pool."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers whose caches are of one kind and shape.

    cache    what each of the layers keeps
    layers   the indices of the layers
    """

    cache: LayerCache
    layers: tuple[int, ...]

    @property
    def window(self) -> int | None:
        """The number of positions that a query of these layers sees, its own included; None: all."""
        return self.cache.window if isinstance(self.cache, PagedKeysValues) else None


def make_groups(layers: Sequence[LayerCache]) -> tuple[CacheGroup, ...]:
    """Return the groups of these layers, in the order of their first layers."""
    return tuple(
        CacheGroup(cache=cache, layers=tuple(index for index, layer in enumerate(layers) if layer == cache))
        for cache in dict.fromkeys(layers)
    )


def index_groups(groups: Sequence[CacheGroup]) -> tuple[int, ...]:
    """Return for each layer the index of its group."""
    group_by_layer = {layer: index for index, group in enumerate(groups) for layer in group.layers}
    return tuple(group_by_layer[layer] for layer in range(len(group_by_layer)))
