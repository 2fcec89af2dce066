"""Placement: the devices of one replica. Everything that touches a device asks it."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxserve.config import EngineConfig
from jaxserve.parallel.mesh import Device, find_devices, make_mesh
from jaxserve.parallel.ranks import Ranks
from jaxserve.parallel.sharding import EXPERT_RULES, RULES, Axis, split_axes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """Total and free memory of one device in bytes: RAM on a CPU, else the device's memory.

    scratch_bytes is what one step needs beside weights and pages, 0 until it is known; weights are counted as used
    already.
    """

    platform: str
    total_bytes: int
    free_bytes: int
    scratch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one device, as JAX counts it.

    device        Its platform and id, such as "tpu:0".
    used_bytes    Bytes in use.
    peak_bytes    The most bytes that were in use.
    limit_bytes   The bytes that may be used.
    """

    device: str
    used_bytes: int
    peak_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of one replica, in the order of their ranks, and how its arrays lie on them.

    devices        The devices; several hold the weights of one replica together.
    num_siblings   The number of devices of all replicas in this process; on a CPU they share its RAM.
    has_expert_parallelism   Each device holds some whole experts, instead of a part of every expert.
    """

    devices: tuple[Device, ...]
    num_siblings: int = 1
    has_expert_parallelism: bool = False

    @property
    def size(self) -> int:
        """The number of devices."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """JAX's name for the kind of devices: cpu, gpu or tpu."""
        return self.devices[0].platform

    @property
    def device_kind(self) -> str:
        """JAX's name for the kind of devices, such as "TPU v5 lite"."""
        return self.devices[0].device_kind

    @property
    def compute_capability(self) -> float:
        """The compute capability of NVIDIA GPUs; 0 of other devices, or if it is unknown."""
        try:
            return float(getattr(self.devices[0], "compute_capability", 0)) if self.platform == "gpu" else 0.0
        except ValueError:  # AMD's are words
            return 0.0

    @property
    def mesh(self) -> Mesh:
        """The mesh of the devices."""
        return make_mesh(self.devices)

    @property
    def replicated(self) -> Sharding:
        """The sharding of an array that every device has whole."""
        if self.size == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Facts about the devices that compiled programs depend on, for the program store."""
        client = self.devices[0].client
        kinds = tuple((device.device_kind, device.id) for device in self.devices)
        return client.platform_version, kinds

    @property
    def num_visible(self) -> int:
        """The number of devices that JAX has, of which these are some."""
        return len(self.devices[0].client.devices())

    @property
    def ranks(self) -> Ranks:
        """The devices as the code of a program sees them."""
        return Ranks(self.size, self.has_expert_parallelism)

    def sharding(self, spec: PartitionSpec) -> Sharding:
        """Return the sharding of an array that is split like this."""
        return self.replicated if self.size == 1 else NamedSharding(self.mesh, spec)

    def split(self, axes: Sequence[Axis | None]) -> Sharding:
        """Return the sharding of a weight with these logical axes."""
        return self.sharding(self.split_axes(axes))

    def split_axes(self, axes: Sequence[Axis | None]) -> PartitionSpec:
        """Return how a weight with these logical axes is split, on any number of devices."""
        return split_axes(axes, EXPERT_RULES if self.has_expert_parallelism else RULES)

    def jit(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any, donate_argnums: int | tuple[int, ...] = ()
    ) -> Any:
        """Return a jitted function, which every device runs on its parts of the arrays.

        in_specs    How each argument is split: a tuple of PartitionSpecs, or of trees of them.
        out_specs   How the results are.
        """
        if self.size == 1:
            return jax.jit(function, donate_argnums=donate_argnums, keep_unused=True)
        mapped = jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(
            mapped,
            in_shardings=jax.tree.map(self.sharding, in_specs, is_leaf=_is_spec),
            out_shardings=jax.tree.map(self.sharding, out_specs, is_leaf=_is_spec),
            donate_argnums=donate_argnums,
            keep_unused=True,
        )

    def as_default(self) -> AbstractContextManager[None]:
        """Return a context in which JAX creates arrays and programs on the first device."""
        return jax.default_device(self.devices[0])

    @property
    def has_own_memory(self) -> bool:
        """Whether the devices have memory of their own, all of which may be used; else they share the RAM."""
        return self.platform != "cpu"

    def memory(self, weight_bytes: int, scratch_bytes: int = 0) -> MemoryFacts:
        """Return the memory of one device, as if its part of the weights, `weight_bytes`, were loaded already."""
        device = self.devices[0]
        if not self.has_own_memory:
            ram = psutil.virtual_memory()
            free = ram.available // self.num_siblings - weight_bytes
            return MemoryFacts(platform="cpu", total_bytes=ram.total // self.num_siblings, free_bytes=max(0, free))
        stats = device.memory_stats() or {}
        total = stats.get("bytes_limit", 0)
        free = total - stats.get("bytes_in_use", 0) - weight_bytes
        return MemoryFacts(platform=device.platform, total_bytes=total, free_bytes=free, scratch_bytes=scratch_bytes)

    def read_memory(self) -> tuple[DeviceMemory, ...]:
        """Return the memory of each device; nothing of those that do not count it, as CPUs."""
        readings = [(f"{device.platform}:{device.id}", device.memory_stats()) for device in self.devices]
        names = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
        return tuple(DeviceMemory(name, *(stats.get(key, 0) for key in names)) for name, stats in readings if stats)

    def describe(self) -> str:
        """Return the devices in words, for the start-up table."""
        device = self.devices[0]
        text = f"{device.device_kind} ({device.platform}, jax {jax.__version__})"
        return text if self.size == 1 else f"{self.size} x {text}"


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)


def choose_placements(config: EngineConfig) -> tuple[Placement, ...]:
    """Return the placement of each replica: replica i has the devices [i * tp, (i + 1) * tp).

    Raises BadConfig if there are too few devices.
    """
    size, num_replicas = config.tensor_parallel_size, config.data_parallel_size
    reason = f"tensor_parallel_size={size}"
    if num_replicas > 1:
        reason = (
            f"data_parallel_size={num_replicas} with {reason}" if size > 1 else f"data_parallel_size={num_replicas}"
        )
    devices = find_devices(size * num_replicas, reason)
    return tuple(
        Placement(devices[first : first + size], len(devices), config.enable_expert_parallel and size > 1)
        for first in range(0, len(devices), size)
    )


def single_placement() -> Placement:
    """Return the placement on JAX's first device alone."""
    return Placement(find_devices(1, "a model"))
