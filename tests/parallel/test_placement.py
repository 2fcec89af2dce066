"""Choice of devices: one for each rank of each replica, and an error that says which flag asks for too many."""

import jax
import pytest

from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig
from jaxserve.parallel import mesh
from jaxserve.parallel.placement import DeviceMemory, choose_placements, single_placement


class FakeDevice:
    """A device of an accelerator."""

    platform = "gpu"

    def __init__(self, id: int) -> None:
        self.id = id


@pytest.fixture
def eight_gpus(monkeypatch):
    jax.devices()  # from now on the process keeps the devices that it has
    monkeypatch.setattr(jax, "devices", lambda: [FakeDevice(id) for id in range(8)])


def test_replicas_get_devices_of_their_own_in_order(eight_gpus):
    placements = choose_placements(EngineConfig(tensor_parallel_size=2, data_parallel_size=3))
    assert [[device.id for device in each.devices] for each in placements] == [[0, 1], [2, 3], [4, 5]]
    assert {each.num_siblings for each in placements} == {6}


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"tensor_parallel_size": 9}, "tensor_parallel_size=9 needs 9 devices, and there are 8"),
        ({"data_parallel_size": 9}, "data_parallel_size=9 needs 9 devices"),
        (
            {"data_parallel_size": 3, "tensor_parallel_size": 3},
            "data_parallel_size=3 with tensor_parallel_size=3 needs 9",
        ),
    ],
)
def test_too_few_devices_are_refused_by_the_flag(eight_gpus, sizes, reason):
    with pytest.raises(BadConfig, match=reason):
        choose_placements(EngineConfig(**sizes))


def test_a_cpu_that_is_in_use_cannot_become_several_devices():
    jax.block_until_ready(jax.numpy.zeros(1))
    num = len(jax.devices()) + 1
    with pytest.raises(BadConfig, match=f"set JAX_NUM_CPU_DEVICES={num}"):
        mesh.find_devices(num, "tensor_parallel_size")


def test_one_device_has_no_mesh_in_its_shardings():
    placement = single_placement()
    assert (placement.size, placement.num_siblings) == (1, 1)
    assert placement.replicated == jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_the_memory_of_devices_is_what_they_count(eight_gpus, monkeypatch):
    def count(device: FakeDevice) -> dict[str, int] | None:
        stats = {"bytes_in_use": device.id, "peak_bytes_in_use": 10 + device.id, "bytes_limit": 100, "num_allocs": 3}
        return None if device.id == 2 else stats

    monkeypatch.setattr(FakeDevice, "memory_stats", count, raising=False)
    first, second = choose_placements(EngineConfig(tensor_parallel_size=2, data_parallel_size=2))
    assert first.read_memory() == (DeviceMemory("gpu:0", 0, 10, 100), DeviceMemory("gpu:1", 1, 11, 100))
    assert second.read_memory() == (DeviceMemory("gpu:3", 3, 13, 100),)


def test_a_cpu_counts_no_memory():
    assert single_placement().read_memory() == ()


def test_devices_of_a_cpu_share_its_memory(monkeypatch):
    single = single_placement()
    quarter = type(single)(single.devices, num_siblings=4)
    assert quarter.memory(0).total_bytes == single.memory(0).total_bytes // 4
