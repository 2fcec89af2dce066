"""Accelerators that programs are compiled for without having one: their compilers, and what these need to be told."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# What XLA:GPU knows of a GPU, in the text form of its GpuTargetConfigProto.
H200 = """
gpu_device_info {
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
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""


@dataclass(frozen=True)
class Target:
    """A kind of accelerator.

    backend   The attention backend for it.
    rows      The rows of the largest decode batch by default.
    """

    name: str
    backend: str
    rows: int


TARGETS = {
    target.name: target
    for target in (
        Target("cpu", "cpu", 32),
        Target("h200", "gpu", 256),
        Target("v5e", "tpu", 128),
        Target("v5p", "tpu", 128),
        Target("v6e", "tpu", 128),
    )
}


def prepare_environment(target: Target) -> None:
    """Set what the compilers read when JAX is imported: that no accelerator is to be looked for."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if target.backend == "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    if target.backend == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def describe_devices(target: Target, num_devices: int) -> tuple[Any, ...]:
    """Return descriptions of devices, which programs can be compiled for; those of the CPU are real.

    Raises RuntimeError, and what JAX raises, if the compiler for the target is not installed.
    """
    import jax
    from jax.experimental import topologies

    if target.backend == "cpu":
        return tuple(jax.devices()[:num_devices])
    if target.backend == "tpu":
        shape = {"v5p": "2x2x1"}.get(target.name, "2x2")
        return tuple(
            topologies.get_topology_desc(platform="tpu", topology_name=f"{target.name}:{shape}").devices[:num_devices]
        )
    import_module("jax_plugins.xla_cuda13")  # in an environment of its own, see `scripts/device compile`
    from jax._src import xla_bridge

    # With no GPU backend up, "gpu" stands for no kind of GPU (jax#23971).
    canonicalize = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name == "gpu" else canonicalize(name)
    return tuple(
        topologies.get_topology_desc(platform="cuda", topology=f"1x1x{num_devices}", target_config=H200).devices
    )


@contextlib.contextmanager
def tell_kernels(target: Target, device: Any, num_devices: int) -> Iterator[None]:
    """Let kernels for one TPU know its generation while they are traced; a mesh of several says it by itself."""
    import jax

    if target.backend != "tpu" or num_devices > 1:
        yield
        return
    described = jax.sharding.AbstractDevice(device.device_kind, device.num_cores, "tpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("device",), abstract_device=described)):
        yield
