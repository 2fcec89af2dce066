"""Lowering of kernels for NVIDIA GPUs on any machine."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export

KERNEL = "__gpu$xla.gpu.triton"


def hopper():
    """Newer versions of JAX want to know which GPU they lower for."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device))


def lower_for_cuda(function: Callable[..., Any], *arguments: Any) -> str:
    """Return StableHLO for CUDA of a function of arrays with the shapes and types of the arguments."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(KERNEL)]
    with hopper():
        return jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(
            *arguments
        ).mlir_module()
