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
from jaxserve.parallel.gpus import GPUS
from jaxserve.parallel.mesh import Device
from jaxserve.parallel.placement import MemoryFacts, Placement

NO_AUTOTUNING = "--xla_gpu_autotune_level=0"  # which would need a GPU
GPU_SHARE = 0.75  # of a GPU's memory, which JAX takes by default


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine. Rates and memory are of one of its devices; the CPU's, which is the one at hand, are not known.

    name               What --target calls it.
    platform           JAX's name for the kind of devices.
    num_devices        The number of its devices.
    memory_bytes       The memory of a device.
    usable_share       How much of the memory a program may use.
    bytes_per_s        Read from its memory in a second.
    flops_per_s        Additions and multiplications in bfloat16 in a second.
    link_bytes_per_s   Sent to the other devices in a second, in one direction; 0: there are none.
    clock_hz           The clock of a TPU's cores, assumed; a GPU's are in `gpus`.
    architecture       The name by which ptxas knows a GPU.
    description        What its compiler is told: the name of a TPU's topology, or a GPU's GpuTargetConfigProto.
    chips              The shape of the TPU chips of a host, where it is not the topology's usual one.
    """

    name: str
    platform: str
    num_devices: int = 1
    memory_bytes: int = 0
    usable_share: float = 1.0
    bytes_per_s: float = 0.0
    flops_per_s: float = 0.0
    link_bytes_per_s: float = 0.0
    clock_hz: float = 0.0
    architecture: str = ""
    description: str = ""
    chips: tuple[int, ...] | None = None


# Memory as libtpu 0.0.42 counts it when a program asks for more. Rates: docs.cloud.google.com/tpu/docs, v5e to v6e.
_V5E: dict[str, Any] = {
    **{"platform": "tpu", "memory_bytes": int(15.75 * GIB), "bytes_per_s": 819e9, "flops_per_s": 197e12},
    **{"clock_hz": 1.5e9},
}
_V6E: dict[str, Any] = {
    **{"platform": "tpu", "memory_bytes": int(31.25 * GIB), "bytes_per_s": 1638e9, "flops_per_s": 918e12},
    **{"clock_hz": 1.75e9},
}
_V5P: dict[str, Any] = {
    **{"platform": "tpu", "memory_bytes": int(95.74 * GIB), "bytes_per_s": 2765e9, "flops_per_s": 459e12},
    **{"clock_hz": 1.75e9},
}
# One link in one direction. The same pages have 400, 800 and 1200 GB/s for all links of a chip in both directions, and
# four links, or six of a v5p.
_LINK_BYTES_PER_S = {"v5e": 400e9 / 4 / 2, "v6e": 800e9 / 4 / 2, "v5p": 1200e9 / 6 / 2}
GPU_COUNTS = (1, 2, 4, 8)


def _sum_links(generation: str, shape: tuple[int, ...]) -> float:
    """Return what a corner chip of a slice sends in a second; collectives wait for it.

    It has one neighbour along each axis of several chips: so short axes have no links from end to end
    (jax-ml.github.io/scaling-book/tpus).
    """
    return _LINK_BYTES_PER_S[generation] * sum(size > 1 for size in shape)


def _list_targets() -> Iterator[Target]:
    yield Target(name="cpu", platform="cpu")
    for generation, facts in (("v5e", _V5E), ("v6e", _V6E)):
        for num, shape in ((1, (1, 1, 1)), (4, (2, 2, 1)), (8, (2, 4, 1))):
            yield Target(
                name=f"{generation}-{num}",
                num_devices=num,
                description=f"{generation}:{shape[0]}x{shape[1]}",
                chips=shape,
                link_bytes_per_s=_sum_links(generation, shape),
                **facts,
            )
    # The name counts its cores, of which a chip has two.
    links = _sum_links("v5p", (2, 2, 1))
    yield Target(name="v5p-8", num_devices=4, description="v5p:2x2x1", link_bytes_per_s=links, **_V5P)
    for gpu in GPUS.values():
        for num in GPU_COUNTS:
            yield Target(
                name=f"{gpu.name}x{num}",
                platform="gpu",
                num_devices=num,
                memory_bytes=gpu.memory_bytes,
                usable_share=GPU_SHARE,
                bytes_per_s=gpu.bytes_per_s,
                flops_per_s=gpu.flops_per_s,
                link_bytes_per_s=gpu.link_bytes_per_s,
                architecture=gpu.architecture,
                description=gpu.config_text,
            )


TARGETS = {target.name: target for target in _list_targets()}


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
        total = int(self.target.usable_share * self.target.memory_bytes)
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
    devices = describe_devices(target)
    return tuple(
        TargetPlacement(
            devices[first : first + size], size * num_replicas, has_expert_parallelism and size > 1, target=target
        )
        for first in range(0, size * num_replicas, size)
    )


def describe_devices(target: Target) -> tuple[Device, ...]:
    """Return all devices of a machine that is not there, a TPU or GPU one, as its compiler describes them.

    Changes the process as `describe_placements` does. Raises BadConfig if the compiler is not installed.
    """
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
