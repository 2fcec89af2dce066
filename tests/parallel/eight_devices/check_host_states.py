"""A state that goes to host memory and comes back is the one that each device had, in the slot that it is copied to."""

import jax
import numpy as np
import pytest

from jaxserve.cache.pages import ModelPages
from jaxserve.engine.host_states import HostStates, read_state, write_state
from jaxserve.parallel.mesh import find_devices
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import STACKED, WHOLE

NUM_SLOTS, LAYERS = 3, 2


@pytest.mark.parametrize("size", [1, 2, 8])
def test_each_device_gets_its_part_of_the_state_back(size):
    placement = Placement(find_devices(size, "this check"))
    values = np.random.default_rng(size).normal(size=(LAYERS, size * NUM_SLOTS, 4, 5)).astype(np.float32)
    layers = tuple(
        (jax.device_put(slots, placement.sharding(STACKED)), jax.device_put(-slots[:, 0], placement.sharding(STACKED)))
        for slots in values
    )
    pages = ModelPages((layers,), ((0, 0), (0, 1)))
    read = placement.jit(lambda pages, slot: read_state(0, pages, slot), (STACKED, WHOLE), STACKED)
    write = placement.jit(lambda *arguments: write_state(0, *arguments), (STACKED, STACKED, WHOLE), STACKED, 0)
    host = HostStates(placement)
    host.put(0, 7, read(pages, np.int32(1)))
    host.copy([(0, 7, 9)])
    pages = write(pages, host.get(0, 9), np.int32(2))
    for slots, (array, second) in zip(values, pages.groups[0], strict=True):
        expected = slots.reshape(size, NUM_SLOTS, 4, 5).copy()
        expected[:, 2] = expected[:, 1]
        np.testing.assert_array_equal(array, expected.reshape(slots.shape))
        np.testing.assert_array_equal(second, -expected.reshape(slots.shape)[:, 0])
