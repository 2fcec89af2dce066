"""Compiles the kernels once per machine, keeps the library on disk, and registers them with XLA.

A compiler is the system's cc, gcc or clang, or the one that `pip install ziglang` brings. The library lies under
a name that depends on sources, flags, compiler and processor, so an old one is never taken for a new one.
"""

import ctypes
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import jax

from jaxserve.config import cache_dir
from jaxserve.errors import BadConfig
from jaxserve.private_files import NotPrivate, check_private_file, make_private_directory
from jaxserve.processor import read_processor

log = logging.getLogger(__name__)

SOURCES = ("attention.c", "experts.c", "linear.c", "pages.c")
HEADERS = ("expert_rows.h", "linear_dot.h", "linear_tiles.h", "page_numbers.h", "parallel_for.h", "tiles.h")
TARGETS = (
    *("jaxserve_attend", "jaxserve_write", "jaxserve_zeros"),
    *("jaxserve_linear", "jaxserve_experts", "jaxserve_packed_experts"),
)
# Sums may be fused and traps forgotten, but nothing is reordered: a row's result must not depend on its neighbours.
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
FLAGS += ("-fno-sanitize=all", "-fPIC", "-shared")
COMPILE_TIMEOUT_S = 300
# What jaxserve_start_tiles answers where it uses none although the processor has some.
TILES_UNUSED = {
    -1: "the system refuses to keep their state",
    -2: "they compute other numbers than the products without",
}


class _NoCompiler(BadConfig):
    """There is no C compiler, as on many machines."""


def find_compiler() -> tuple[str, ...] | None:
    """Return the command of a C compiler, or None where there is none."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return (path,)
    return (sys.executable, "-m", "ziglang", "cc") if importlib.util.find_spec("ziglang") else None


@cache
def load_kernels() -> None:
    """Make the kernels callable through `jax.ffi`. Raises BadConfig, with the reason, if there is no compiler."""
    command = find_compiler()
    if command is None:
        raise _NoCompiler(
            "Native kernels need a C compiler and none is here; pip install 'jaxserve[native]' brings one."
        )
    library = ctypes.CDLL(str(_compile_library(command)))
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    start_tiles(library)


def start_tiles(library: ctypes.CDLL) -> bool:
    """Let packed products use the processor's tiles (AMX) and return whether they do; log why not if it has some."""
    state = library.jaxserve_start_tiles()
    if state in TILES_UNUSED:
        log.warning("packed products do not use the processor's tiles (AMX): %s", TILES_UNUSED[state])
    elif state == 1:
        log.info("packed products of 16 rows and more use the processor's tiles (AMX)")
    return state == 1


@cache
def is_usable() -> bool:
    """Return whether `load_kernels` succeeds; if not, log once why."""
    try:
        load_kernels()
    except _NoCompiler as error:
        log.info("native kernels are not used: %s", error)
        return False
    except (BadConfig, OSError) as error:
        log.warning("native kernels are not used: %s", error)
        return False
    return True


def _compile_library(command: tuple[str, ...]) -> Path:
    directory = cache_dir("native")
    try:
        return _find_or_compile(make_private_directory(directory), command)
    except OSError as error:
        raise BadConfig(f"Native kernels cannot be kept in {directory}: {error}") from error
    except NotPrivate as error:
        raise BadConfig(f"Native kernels: {error}") from None


def _find_or_compile(directory: Path, command: tuple[str, ...]) -> Path:
    here = Path(__file__).parent
    library = directory / f"kernels-{_library_key(here, command)}.so"
    if library.exists():
        check_private_file(library)
        return library
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        output = Path(folder) / "kernels.so"
        _compile(command, here, output)
        os.replace(output, library)  # another process may be doing the same
    return library


def _compile(command: tuple[str, ...], here: Path, output: Path) -> None:
    sources = [str(here / name) for name in SOURCES]
    compile_command = [*command, *FLAGS, f"-I{jax.ffi.include_dir()}", *sources, "-o", str(output)]
    try:
        subprocess.run(compile_command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        compiler_output = (getattr(error, "stderr", "") or str(error)).strip()[-500:]
        raise BadConfig(f"Native kernels do not compile with {command[-1]}: {compiler_output}") from error


def _library_key(here: Path, command: tuple[str, ...]) -> str:
    """What the library depends on: sources, interface, flags, compiler, and this kind of processor."""
    digest = sha256("\0".join([*command, *FLAGS, jax.__version__, platform.machine()]).encode())
    for name in (*SOURCES, *HEADERS):
        digest.update((here / name).read_bytes())
    digest.update("\n".join(read_processor()).encode())
    return digest.hexdigest()[:16]
