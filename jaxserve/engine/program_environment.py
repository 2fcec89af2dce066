"""The facts about a machine and its versions that built programs depend on, in words."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import jax

from jaxserve.engine.built_programs import FEATURES
from jaxserve.engine.programs import ENV_FLAGS, hash_sources
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.targets import NO_AUTOTUNING
from jaxserve.processor import read_processor

COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-pjrt", "jax-cuda12-pjrt")}  # packages, by JAX platform


def describe_environment(placement: Placement) -> dict[str, str]:
    """Return the facts about the machine of a placement, which may be described alone, and about versions.

    XLA compiles for the processor at hand and for its very features: elsewhere a program could end in an illegal
    instruction. An accelerator's programs depend on its kind, on the number of devices beside it, and on the compiler.
    """
    facts = {
        "jaxserve": f"sources {hash_sources()[:12]}",
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **{flag: os.environ.get(flag, "").replace(NO_AUTOTUNING, "").strip() or "not set" for flag in ENV_FLAGS},
    }
    if placement.platform == "cpu":
        kind, features = read_processor()
        return facts | {"system": f"{platform.system()} {platform.machine()}", "processor": kind, FEATURES: features}
    devices = f"{placement.num_visible} x {placement.devices[0].device_kind}"
    return facts | {"devices": devices, "compiler": _describe_compiler(placement.platform)}


def _describe_compiler(name: str) -> str:
    for package in COMPILERS.get(name, ()):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "unknown"
