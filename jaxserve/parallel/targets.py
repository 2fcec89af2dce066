"""Machines that programs are compiled for without being there: their devices as the compilers describe them.

libtpu compiles for TPUs and XLA with ptxas for GPUs on any machine; nothing runs, and no device is opened. Describing a
machine changes the process for good: see `describe_placements`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax

from jaxserve.config import GIB
from jaxserve.errors import BadConfig
from jaxserve.parallel.mesh import Device
from jaxserve.parallel.placement import MemoryFacts, Placement

NO_AUTOTUNING = "--xla_gpu_autotune_level=0"  # which would need a GPU
GPU_SHARE = 0.75  # of a GPU's memory, which JAX takes by default

# What XLA:GPU knows of a GPU of Hopper's generation, in the text form of its GpuTargetConfigProto.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine.

    name           What --target calls it.
    platform       JAX's name for the kind of devices.
    num_devices    The number of its devices.
    memory_bytes   What a program may use of a device's memory; 0: what the machine at hand has.
    description    What the compiler is told of it: the name of a TPU's topology, or a GPU as a GpuTargetConfigProto.
    chips          The shape of the TPU chips of a host, where it is not the topology's usual one.
    """

    name: str
    platform: str
    num_devices: int = 1
    memory_bytes: int = 0
    description: str = ""
    chips: tuple[int, ...] | None = None


def _list_targets() -> dict[str, Target]:
    targets = [Target("cpu", "cpu")]
    v5e, v6e, v5p = int(15.75 * GIB), int(31.25 * GIB), int(95.74 * GIB)  # as libtpu counts them
    for generation, memory_bytes in (("v5e", v5e), ("v6e", v6e)):
        for num, shape in ((1, (1, 1, 1)), (4, (2, 2, 1)), (8, (2, 4, 1))):
            topology = f"{generation}:{shape[0]}x{shape[1]}"
            targets.append(Target(f"{generation}-{num}", "tpu", num, memory_bytes, topology, shape))
    targets.append(Target("v5p-8", "tpu", 4, v5p, "v5p:2x2x1"))  # a name counts its cores, of which a chip has two
    for name, kind, memory_bytes, bandwidth in (
        ("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
        ("h200", "NVIDIA H200", 151_397_597_184, 4_800_000_000_000),
    ):
        description = _HOPPER.format(name=kind, memory_bytes=memory_bytes, bandwidth=bandwidth)
        usable = int(GPU_SHARE * memory_bytes)
        targets += [Target(f"{name}x{num}", "gpu", num, usable, description) for num in (1, 2, 4, 8)]
    return {target.name: target for target in targets}


TARGETS = _list_targets()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlacement(Placement):
    """The placement of a replica on a machine that is not there.

    target   The machine.
    """

    target: Target

    @property
    def num_visible(self) -> int:
        """The number of devices of the machine."""
        return self.target.num_devices

    @property
    def platform(self) -> str:
        """JAX's name for the kind of devices."""
        return self.target.platform

    def memory(self, weight_bytes: int, scratch_bytes: int = 0) -> MemoryFacts:
        """Return the memory of one device that nothing else uses."""
        total = self.target.memory_bytes
        free = total - weight_bytes
        return MemoryFacts(platform=self.platform, total_bytes=total, free_bytes=free, scratch_bytes=scratch_bytes)

    def as_default(self) -> AbstractContextManager[None]:
        """Return a context in which JAX creates programs for the first device, and kernels know its generation."""
        return _describe_to_kernels(self)

    def describe(self) -> str:
        """Return the devices in words."""
        return f"{self.size} x {self.devices[0].device_kind} (absent, jax {jax.__version__})"


@contextmanager
def _describe_to_kernels(placement: TargetPlacement) -> Iterator[None]:
    """Let kernels for one TPU know its generation while they are traced; a mesh of several says it by itself."""
    with ExitStack() as contexts:
        contexts.enter_context(jax.default_device(placement.devices[0]))
        if placement.platform == "tpu" and placement.size == 1:
            device = placement.devices[0]
            described = jax.sharding.AbstractDevice(device.device_kind, device.num_cores, "tpu")
            mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=described)
            contexts.enter_context(jax.sharding.use_abstract_mesh(mesh))
        yield


def find_target(name: str) -> Target:
    """Return a machine by its name. Raises BadConfig, with those that there are."""
    if name in TARGETS:
        return TARGETS[name]
    names = ", ".join(TARGETS)
    raise BadConfig(f"target={name!r} is no machine that programs are built for; try one of {names}.")


def describe_placements(
    target: Target, size: int, num_replicas: int, *, has_expert_parallelism: bool
) -> tuple[Placement, ...]:
    """Return the placement of each replica on a machine that is not there. size: the devices of a replica.

    From then on this process has only the CPU (jax_platforms), and environment variables of libtpu, or
    CUDA_VISIBLE_DEVICES and XLA_FLAGS, have other values; for a GPU JAX takes the platform "gpu" for CUDA.

    Raises BadConfig if the machine has fewer devices, or if its compiler is not installed.
    """
    if size * num_replicas > target.num_devices:
        raise BadConfig(
            f"tensor_parallel_size={size} with data_parallel_size={num_replicas} needs {size * num_replicas} devices,"
            f" and target={target.name!r} has {target.num_devices}; try a product of at most {target.num_devices}."
        )
    devices = _describe_devices(target)
    return tuple(
        TargetPlacement(
            devices[first : first + size], size * num_replicas, has_expert_parallelism and size > 1, target=target
        )
        for first in range(0, size * num_replicas, size)
    )


def _describe_devices(target: Target) -> tuple[Device, ...]:
    jax.config.update("jax_platforms", "cpu")  # no device is opened
    try:
        return _describe_tpus(target) if target.platform == "tpu" else _describe_gpus(target)
    except (ImportError, RuntimeError, ValueError) as error:  # RuntimeError: XLA's own errors are such
        reason = re.split(r"[\n;]", str(error))[0][:200]
        extra = {"tpu": "tpu", "gpu": "cuda"}[target.platform]
        raise BadConfig(
            f"target={target.name!r} needs a compiler that cannot be used here ({reason}); install"
            f" 'jaxserve[{extra}]', on any machine."
        ) from error


def _describe_tpus(target: Target) -> tuple[Device, ...]:
    from jax.experimental import topologies

    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is opened, so processes may share the library
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu looks for the machine that it is on
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    options: dict[str, Any] = {} if target.chips is None else {"chips_per_host_bounds": target.chips}
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=target.description, **options).devices)


def _describe_gpus(target: Target) -> tuple[Device, ...]:
    from jax.experimental import topologies

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if NO_AUTOTUNING not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_AUTOTUNING}".strip()
    import_module("jax_plugins.xla_cuda13")
    _let_gpu_mean_cuda()
    topology = f"1x1x{target.num_devices}"
    return tuple(
        topologies.get_topology_desc(platform="cuda", topology=topology, target_config=target.description).devices
    )


def _let_gpu_mean_cuda() -> None:
    """Let JAX take "gpu" for CUDA: with no GPU backend up, it stands for no kind of GPU (jax#23971). Once is enough."""
    from jax._src import xla_bridge

    canonicalize = xla_bridge.canonicalize_platform
    if not hasattr(canonicalize, "wrapped"):

        def replacement(name: str) -> str:
            return "cuda" if name == "gpu" else canonicalize(name)

        replacement.wrapped = canonicalize  # type: ignore[attr-defined]
        xla_bridge.canonicalize_platform = replacement
