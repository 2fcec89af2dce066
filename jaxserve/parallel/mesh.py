"""Choice of devices, and the mesh that the devices of one replica form."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from jaxserve.errors import BadConfig

Device: TypeAlias = Any
"""jax.Device, which type checkers take for a variable."""

TENSOR_AXIS = "tensor"  # the one axis of a mesh: weights, pages and logits are split along it


def find_devices(num: int, reason: str) -> tuple[Device, ...]:
    """Return the first `num` devices of JAX.

    A CPU is one device; if more are needed, JAX is asked for so many, which share its cores and its memory. This must
    happen before JAX computes anything.

    reason   What asks for so many devices, for the error.

    Raises BadConfig if there are fewer.
    """
    if num > 1 and getattr(jax.config, "jax_num_cpu_devices", 0) < num:
        with suppress(RuntimeError):  # JAX has computed already, so the number of devices is fixed
            jax.config.update("jax_num_cpu_devices", num)
    devices = jax.devices()
    if len(devices) < num:
        raise BadConfig(_describe_too_few(num, reason, devices))
    return tuple(devices[:num])


def list_devices() -> tuple[Device, ...]:
    """Return all devices that JAX has."""
    return tuple(jax.devices())


def make_mesh(devices: Sequence[Device]) -> Mesh:
    """Return the mesh of the devices of one replica, in the order of their ranks."""
    return Mesh(np.array(devices), (TENSOR_AXIS,))


def _describe_too_few(num: int, reason: str, devices: Sequence[Device]) -> str:
    platform, count = devices[0].platform, len(devices)
    text = f"{reason} needs {num} devices, and there {'is' if count == 1 else 'are'} {count} ({platform})"
    if platform == "cpu":
        return f"{text}: JAX was used before it could be asked for more; set JAX_NUM_CPU_DEVICES={num}."
    return f"{text}; try a product of at most {count}."
