"""Groups of layers that keep the same kind of cache: each group has its own page ids, page table and pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jaxserve.cache.layer_cache import LayerCache, OwnCache, PagedKeysValues, PagedLatent, RecurrentState, SharedCache

PageCopy: TypeAlias = tuple[int, int, int]
"""A copy of one page in all layers of a cache group: (index of the group, from, to)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers whose caches are of one kind and shape.

    name     of the group in metrics and in the start-up table
    cache    what each of the layers keeps
    layers   the indices of the layers
    readers  layers without a cache that read one of these: (its index, the index of the layer that it reads)
    """

    name: str
    cache: OwnCache
    layers: tuple[int, ...]
    readers: tuple[tuple[int, int], ...] = ()

    @property
    def window(self) -> int | None:
        """The number of positions that a query of these layers sees, its own included; None: all."""
        return self.cache.window if isinstance(self.cache, PagedKeysValues) else None

    @property
    def is_recurrent(self) -> bool:
        """Whether a page of these layers is a slot: the state of one sequence, whatever its length."""
        return isinstance(self.cache, RecurrentState)

    @property
    def is_latent(self) -> bool:
        """Whether a page of these layers holds latent vectors in place of keys and values."""
        return isinstance(self.cache, PagedLatent)

    def page_table_width(self, max_pages_per_row: int) -> int:
        """Return the width of a page table where pages of tokens need this one."""
        return 1 if self.is_recurrent else max_pages_per_row


def make_groups(layers: Sequence[LayerCache]) -> tuple[CacheGroup, ...]:
    """Return the groups of these layers, in the order of their first layers."""
    groups: list[CacheGroup] = []
    shared = [(index, cache.layer) for index, cache in enumerate(layers) if isinstance(cache, SharedCache)]
    for cache in dict.fromkeys(layer for layer in layers if not isinstance(layer, SharedCache)):
        name, num_same = _describe(cache), sum(1 for group in groups if group.name.startswith(_describe(cache)))
        indices = tuple(index for index, layer in enumerate(layers) if layer == cache)
        readers = tuple((reader, owner) for reader, owner in shared if owner in indices)
        name = f"{name} ({num_same + 1})" if num_same else name
        groups.append(CacheGroup(name=name, cache=cache, layers=indices, readers=readers))
    return tuple(groups)


def _describe(cache: OwnCache) -> str:
    if isinstance(cache, PagedKeysValues):
        return "full attention" if cache.window is None else f"window {cache.window}"
    return "latent attention" if isinstance(cache, PagedLatent) else "recurrent state"


def locate_layers(groups: Sequence[CacheGroup]) -> tuple[tuple[int, int], ...]:
    """Return for each layer the index of its group, and its own index among the group's layers.

    A reader has the place of the layer that it reads.
    """
    places = {layer: (index, at) for index, group in enumerate(groups) for at, layer in enumerate(group.layers)}
    places |= {reader: places[owner] for group in groups for reader, owner in group.readers}
    return tuple(places[layer] for layer in range(len(places)))


def num_pages_for(num_tokens: int, page_size: int) -> int:
    """Return how many pages num_tokens tokens occupy."""
    return -(-num_tokens // page_size)


def first_visible_page(position: int, window: int | None, page_size: int) -> int:
    """Return the index of the first page with a key that a query at `position` or a later one sees."""
    return 0 if window is None else max(0, position - window + 1) // page_size


def max_window_pages(window: int, page_size: int) -> int:
    """Return how many pages hold keys that one query sees, its own included, where they lie most awkwardly."""
    return num_pages_for(window - 1, page_size) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize:
    """The size of one cache group.

    num_pages    the pages of each of its layers, page 0 included, which holds no tokens
    window       the number of positions that a query sees, its own included; None: all
    name         of the group
    page_bytes   the bytes of one page in all its layers
    num_rows     of a recurrent group, whose pages are slots with the state of one sequence each: the rows of the batch,
                 each of which has one while it is in use; 0: its pages hold tokens
    num_host_pages   of a recurrent group: the slots in host memory for snapshots, whose page ids follow the others
    is_latent    its pages hold latent vectors in place of keys and values
    """

    num_pages: int
    window: int | None = None
    name: str = "full attention"
    page_bytes: int = 0
    num_rows: int = 0
    num_host_pages: int = 0
    is_latent: bool = False

    @property
    def is_recurrent(self) -> bool:
        """Whether a page of it is the state of one sequence."""
        return self.num_rows > 0

    def page_table_width(self, max_pages_per_row: int) -> int:
        """Return the width of a page table where pages of tokens need this one."""
        return 1 if self.is_recurrent else max_pages_per_row

    @property
    def total_bytes(self) -> int:
        """The memory of all pages."""
        return self.num_pages * self.page_bytes


def num_main_pages(sizes: Sequence[GroupSize]) -> int:
    """Return the number of pages of the main group, page 0 included: the largest of those whose pages hold tokens.

    Without any group it is page 0 alone.
    """
    return max((size.num_pages for size in sizes if not size.is_recurrent), default=1)
