"""Checks of this machine for `jaxserve doctor`: what a server needs, whether it works, and what to do if not."""

import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from jaxserve.config import GIB, cache_dir
from jaxserve.errors import JaxServeError

HUB_TIMEOUT_S = 3.0
MIN_MEMORY_BYTES, MIN_DISK_BYTES = 2 * GIB, 2 * GIB
GOOGLE = "0x1ae0"  # as a vendor of PCI devices
VERSIONS = ("jaxserve", "jax", "jaxlib", "flax", "transformers", "tokenizers", "llguidance", "hypercorn")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` says what to do if the status is not ok."""

    name: str
    status: Literal["ok", "warning", "wrong"]
    text: str
    advice: str = ""


def diagnose() -> Iterator[Finding]:
    """Run all checks and yield their findings; a check that fails with an exception is a finding, too."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("versions", check_versions),
        ("device", check_device),
        ("memory", check_memory),
        ("cache", check_cache),
        ("compiler", check_compiler),
        ("hub", check_hub),
    )
    for name, check in checks:
        try:
            yield check()
        except (JaxServeError, OSError, RuntimeError, ImportError) as error:
            yield Finding(name, "wrong", (str(error).splitlines() or [repr(error)])[0][:300])


def check_versions() -> Finding:
    """Check that the packages are installed, and list their versions."""
    installed = []
    for name in VERSIONS:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding("versions", "wrong", f"{name} is not installed", "install jaxserve again: pip install -e .")
    return Finding("versions", "ok", f"Python {platform.python_version()}, " + ", ".join(installed))


def check_device() -> Finding:
    """Check which device JAX computes on, and measure its speed."""
    import jax
    import numpy as np

    from jaxserve.engine.roofline import measure_peak_rates
    from jaxserve.parallel.mesh import list_devices

    device, *others = list_devices()
    dtype = np.dtype("float32") if device.platform == "cpu" else np.dtype(jax.numpy.bfloat16)
    rates = measure_peak_rates(device, dtype)
    text = f"{device.device_kind} ({device.platform}, {1 + len(others)} seen); {rates} in {dtype}"
    if device.platform == "cpu" and (idle := find_idle_accelerator()):
        extra = "cuda" if idle == "NVIDIA GPU" else "tpu"
        return Finding("device", "warning", f"{text}; an {idle} is not used", f"pip install -e '.[{extra}]'")
    return Finding("device", "ok", text)


def find_idle_accelerator(root: Path = Path("/")) -> str | None:
    """Return the name of an accelerator that Linux shows and JAX was not installed for; None if there is none.

    root   Where /dev and /sys are.
    """
    if (root / "dev" / "nvidiactl").exists() or shutil.which("nvidia-smi"):
        return "NVIDIA GPU"
    # From v5e on TPUs are devices of VFIO, as are others that a virtual machine is given: the vendor tells them apart.
    has_tpu = any(root.glob("dev/accel[0-9]*")) or (any(root.glob("dev/vfio/[0-9]*")) and GOOGLE in _list_vendors(root))
    return "accelerator of the TPU kind" if has_tpu else None


def _list_vendors(root: Path) -> set[str]:
    """Return the vendors of all PCI devices, as Linux writes them."""
    return {file.read_text().strip() for file in root.glob("sys/bus/pci/devices/*/vendor")}


def check_memory() -> Finding:
    """Check how much memory is free."""
    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available, {os.cpu_count()} CPU cores"
    if memory.available < MIN_MEMORY_BYTES:
        return Finding(
            "memory", "warning", text, "end other programs, or serve a smaller model, or --quantization int8"
        )
    return Finding("memory", "ok", text)


def check_cache() -> Finding:
    """Check that the cache directory is writable, and how much of the disk is free."""
    directory = cache_dir("")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = "make it writable, or set XDG_CACHE_HOME to another"
        return Finding("cache", "wrong", f"{directory}: {error.strerror or error}", advice)
    if not os.access(directory, os.W_OK):
        return Finding("cache", "wrong", f"{directory} is not writable", "set XDG_CACHE_HOME to a directory that is")
    files = [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]
    used = sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(directory).free
    text = f"{directory}: {used / GIB:.1f} GiB used, {free / GIB:.1f} GiB of the disk free"
    if free < MIN_DISK_BYTES:
        return Finding("cache", "warning", text, "jaxserve list shows what is kept, jaxserve rm deletes it")
    return Finding("cache", "ok", text)


def check_compiler() -> Finding:
    """Check that the native kernels can be compiled on this machine."""
    from jaxserve.native import library

    if library.is_usable():
        return Finding("compiler", "ok", f"native kernels, compiled with {' '.join(library.find_compiler() or ('?',))}")
    advice = "install cc, gcc or clang, or: pip install -e '.[native]'; without, CPUs are slower"
    return Finding("compiler", "warning", "no native kernels: there is no C compiler, or it failed", advice)


def check_hub() -> Finding:
    """Check that the hub answers within a few seconds."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return Finding("hub", "warning", "HF_HUB_OFFLINE is set", "unset it to fetch models from the hub")
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_TIMEOUT_S):
            pass
    except urllib.error.HTTPError:
        pass  # an HTTP error is an answer, too
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        advice = "only models on this machine can be served; check the network, HTTPS_PROXY or HF_ENDPOINT"
        return Finding("hub", "warning", f"{constants.ENDPOINT} does not answer ({reason})", advice)
    return Finding("hub", "ok", f"{constants.ENDPOINT} answers")
