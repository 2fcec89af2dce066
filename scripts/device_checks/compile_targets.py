"""Accelerators that programs are compiled for without having one: their compilers, and what these need to be told."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from scripts.device_checks.compile_gpus import GPUS


@dataclass(frozen=True)
class Target:
    """Some accelerators of one kind, which hold a model together.

    backend        The attention backend for it.
    num_devices    The number of devices.
    topology       What libtpu calls the smallest topology with so many devices; of a GPU, its GpuTargetConfigProto.
    memory_bytes   Of one device, as the compiler or the driver counts it; 0: that of this machine.
    bytes_per_s    Read from the memory of one device, and
    flops_per_s    products of bfloat16 of one device: what its maker says.
    architecture   The name by which ptxas knows a GPU.
    """

    name: str
    backend: str
    num_devices: int = 1
    topology: str = ""
    memory_bytes: int = 0
    bytes_per_s: float = 0.0
    flops_per_s: float = 0.0
    architecture: str = ""


def _list_targets() -> Iterator[Target]:
    yield Target("cpu-1", "cpu")
    # Memory is what libtpu 0.0.42 says that it has when a program asks for more. Rates: cloud.google.com/tpu/docs.
    # v5p-8 is Google's name for four chips, which have two cores each.
    for name, size, topology, gib, bytes_per_s, flops_per_s in (
        *(("v5e", size, shape, 15.75, 819e9, 197e12) for size, shape in ((1, "2x2"), (4, "2x2"), (8, "2x4"))),
        ("v5p", 8, "2x2x1", 95.74, 2765e9, 459e12),
        *(("v6e", size, shape, 31.25, 1640e9, 918e12) for size, shape in ((1, "2x2"), (4, "2x2"), (8, "2x4"))),
    ):
        num_devices = size // 2 if name == "v5p" else size
        memory_bytes = int(gib * 2**30)
        yield Target(f"{name}-{size}", "tpu", num_devices, f"{name}:{topology}", memory_bytes, bytes_per_s, flops_per_s)
    for gpu in GPUS:
        for size in gpu.sizes:
            rates = (gpu.bytes_per_s, gpu.flops_per_s)
            yield Target(f"{gpu.name}-{size}", "gpu", size, gpu.describe(), gpu.memory_bytes, *rates, gpu.architecture)


TARGETS = {target.name: target for target in _list_targets()}


def prepare_environment(backend: str) -> None:
    """Set what the compilers read when JAX is imported: that no accelerator is to be looked for."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if backend == "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    if backend == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def describe_devices(target: Target) -> tuple[Any, ...]:
    """Return descriptions of devices, which programs can be compiled for; those of the CPU are real.

    Raises RuntimeError, and what JAX raises, if the compiler for the target is not installed.
    """
    import jax
    from jax.experimental import topologies

    size = target.num_devices
    if target.backend == "cpu":
        return tuple(jax.devices()[:size])
    if target.backend == "tpu":
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=target.topology).devices[:size])
    import_module("jax_plugins.xla_cuda13")  # in an environment of its own, see `scripts/device compile`
    _let_gpu_mean_cuda()
    return tuple(
        topologies.get_topology_desc(platform="cuda", topology=f"1x1x{size}", target_config=target.topology).devices
    )


def _let_gpu_mean_cuda() -> None:
    """With no GPU backend up, "gpu" stands for no kind of GPU (jax#23971)."""
    from jax._src import xla_bridge

    canonicalize = xla_bridge.canonicalize_platform
    if not hasattr(canonicalize, "wrapped"):

        def replacement(name: str) -> str:
            return "cuda" if name == "gpu" else canonicalize(name)

        replacement.wrapped = canonicalize  # type: ignore[attr-defined]
        xla_bridge.canonicalize_platform = replacement


@contextlib.contextmanager
def tell_kernels(target: Target, device: Any) -> Iterator[None]:
    """Let kernels for one TPU know its generation while they are traced; a mesh of several says it by itself."""
    import jax

    if target.backend != "tpu" or target.num_devices > 1:
        yield
        return
    described = jax.sharding.AbstractDevice(device.device_kind, device.num_cores, "tpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("device",), abstract_device=described)):
        yield
