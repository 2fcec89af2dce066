"""The states of snapshots in host memory, and the copies between them and the pages on the device.

They stay arrays of JAX: a device with memory of its own copies to and from pinned host memory by itself, in the order
in which the copies and the programs were enqueued, and nothing waits for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Sharding

from jaxserve.cache.groups import PageCopy
from jaxserve.cache.pages import ModelPages
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import STACKED


class DividedCopies(NamedTuple):
    """Page copies by where they lead: to host memory, between pages of the device, from host memory, within it.

    exchanged   Those between pages of the device that come behind a copy into their source.
    """

    offloaded: list[PageCopy]
    on_device: list[PageCopy]
    reloaded: list[PageCopy]
    on_host: list[PageCopy]
    exchanged: list[PageCopy]


def divide_copies(copies: Sequence[PageCopy], first_host_pages: Mapping[int, int]) -> DividedCopies:
    """Divide page copies. first_host_pages: for groups with states in host memory the page id of the first there."""
    divided, written = DividedCopies([], [], [], [], []), set[tuple[int, int]]()
    for copy in copies:
        group, source, target = copy
        first = first_host_pages.get(group, max(source, target) + 1)
        if target < first and (group, source) in written:
            divided.exchanged.append(copy)
        elif source < first:
            (divided.on_device if target < first else divided.offloaded).append(copy)
        else:
            (divided.reloaded if target < first else divided.on_host).append(copy)
        if target < first:
            written.add((group, target))
    return divided


class HostStates:
    """The owner of the states in host memory, by group and page id.

    placement   the devices
    """

    def __init__(self, placement: Placement) -> None:
        self._on_device = placement.sharding(STACKED)
        self._on_host = _host_sharding(placement)
        self._states: dict[tuple[int, int], tuple[Array, ...]] = {}

    def put(self, group: int, page: int, state: tuple[Array, ...]) -> None:
        """Enqueue the copy of a state from the device."""
        self._states[group, page] = tuple(jax.device_put(array, self._on_host) for array in state)

    def get(self, group: int, page: int) -> tuple[Array, ...]:
        """Enqueue the copy of a state to the device, and return it there."""
        return tuple(jax.device_put(array, self._on_device) for array in self._states[group, page])

    def copy(self, copies: Sequence[PageCopy]) -> None:
        """Copy states within host memory, all at once."""
        self._states |= {(group, target): self._states[group, source] for group, source, target in copies}

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()


def _host_sharding(placement: Placement) -> Sharding:
    """Return how states lie in the memory of the host; devices without memory of their own have no other."""
    sharding = placement.sharding(STACKED)
    return sharding.with_memory_kind("pinned_host") if placement.has_own_memory else sharding


def read_state(group: int, pages: ModelPages, slot: Array) -> tuple[Array, ...]:
    """Return the state in one slot of a recurrent group: its arrays [1, layers, ...]."""
    layers = pages.groups[group]
    return tuple(
        jnp.stack([jax.lax.dynamic_index_in_dim(layer[at], slot) for layer in layers], axis=1)
        for at in range(len(layers[0]))
    )


def write_state(group: int, pages: ModelPages, state: tuple[Array, ...], slot: Array) -> ModelPages:
    """Write a state, as read_state returns it, into a slot. Donate pages."""

    def write_layer(index: int, layer: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(slots, array[:, index], slot, 0)
            for slots, array in zip(layer, state, strict=True)
        )

    written: tuple[Any, ...] = tuple(write_layer(index, layer) for index, layer in enumerate(pages.groups[group]))
    return ModelPages((*pages.groups[:group], written, *pages.groups[group + 1 :]), pages.places)
