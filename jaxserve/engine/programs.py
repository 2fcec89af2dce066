"""A store of compiled programs on disk, which are found without tracing: it makes every start after the first quick.

JAX's own cache is looked up only after a function was traced and lowered, which takes longer than reading the program.
Here a program has two names. One is a hash of everything that determines it (settings, shapes, versions, sources),
known before anything is traced; the other is a hash of what it lowers to, so that a changed comment in a source costs
the tracing but not the compilation. The file of the first name holds the second name, the file of that the program.

Loading a program unpickles it and loads machine code. It is trusted like the code itself: program_files.py and
built_programs.py say which files are.
"""

import logging
import os
import pickle
import sys
from collections.abc import Hashable, Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from jaxserve.engine.program_files import NAME_SUFFIX, NUMBER_SUFFIX, PROGRAM_SUFFIX, ProgramFiles, first_line
from jaxserve.parallel.placement import Placement

log = logging.getLogger(__name__)

Program = Any  # jax.stages.Compiled

SOURCE_DIRS = (
    "attention",
    "engine",
    "cache",
    "layers",
    "models",
    "parallel",
    "sampling",
)  # whose sources programs depend on
ENV_FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_CPU_ENABLE_FAST_MATH",
)
AUTOTUNE_OPTION = "xla_gpu_per_fusion_autotune_cache_dir"
# What XLA for CPUs leaves to YNNPACK: products, and no sums. It adds 4,096 numbers and more in another order than fewer
# (jax 0.10.2), so the norm of a row among eight differs from the same row's norm alone in the last bit; where packed
# weights round activations to int8, log-probabilities then differ by 0.1.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
DIGEST_BYTES = 32


class ProgramStore:
    """The compiled programs of one placement, by key. Safe in threads.

    files         Where the programs are; None: nothing is saved and nothing found.
    placement     The devices that the programs run on.
    facts         Everything that the programs depend on besides versions, sources and flags: shapes, dtypes, settings.
    loaded_keys   The keys of the programs that were found.
    """

    def __init__(self, files: ProgramFiles | None, placement: Placement, facts: Iterable[Any] = ()) -> None:
        self._files, self.placement = files, placement
        if files is None or files.machine is None:
            flags = [*(os.environ.get(flag) for flag in ENV_FLAGS), CPU_OPTIONS]
            self._machine = make_hash(jax.__version__, *placement.key, flags, sys.version_info)
        else:
            self._machine = make_hash(files.machine, [device.id for device in placement.devices])
        self._facts = make_hash(self._machine, hash_sources(), *facts)
        self.loaded_keys: set[Hashable] = set()
        self._has_warned = False

    @property
    def compiler_options(self) -> dict[str, str]:
        """The options for compiling: on a CPU, CPU_OPTIONS; on a GPU, where XLA keeps what its autotuner measured.

        A program that changed then measures only products that are new, and a product is computed by the same kernel
        after every start; without it kernels, and so the last bits, may differ (xla#37902). JAX sets it only for its
        own compilation cache.
        """
        if self.placement.platform == "cpu":
            return CPU_OPTIONS
        if self._files is None or self.placement.platform != "gpu":
            return {}
        directory = self._files.tuning_directory()
        return {} if directory is None else {AUTOTUNE_OPTION: str(directory)}

    def load(self, key: Hashable) -> Program | None:
        """Return the program last saved for this key, ready to run, or None."""
        entry = self._read(self._name_of(key) + NAME_SUFFIX)
        return self._program(key, entry.decode(errors="replace")) if entry else None

    def load_lowered(self, key: Hashable, lowered: Any) -> Program | None:
        """Return the program compiled from these instructions, or None; from then on `load` finds it by its key."""
        program = self._program(key, name := self._name_of_lowered(lowered))
        if program is not None and self._files is not None:
            self._files.write(self._name_of(key) + NAME_SUFFIX, name.encode())
        return program

    def save(self, key: Hashable, lowered: Any, program: Program) -> None:
        """Save a freshly compiled program, atomically. A full or read-only disk is logged once, as a warning.

        A program that was itself loaded must not be saved: XLA for CPU would lose its symbols (jax 0.10.2).
        """
        if self._files is None:
            return
        try:
            payload = pickle.dumps(serialize(program))
        except Exception as error:  # a backend that cannot serialize its programs
            if not self._has_warned:
                log.warning("compiled programs, such as %s, cannot be kept: %s", key, first_line(error))
            self._has_warned = True
            return
        name = self._name_of_lowered(lowered)
        self._files.write(name, sha256(payload).digest() + payload)
        self._files.write(self._name_of(key) + NAME_SUFFIX, name.encode())

    def has(self, key: Hashable) -> bool:
        """Return whether a program is saved for this key. A full disk may have taken its name and not the program."""
        name = self._read(self._name_of(key) + NAME_SUFFIX)
        return name is not None and self._read(name.decode(errors="replace")) is not None

    def load_number(self, key: Hashable) -> int | None:
        """Return the number last saved for this key, or None."""
        entry = self._read(self._name_of(key) + NUMBER_SUFFIX)
        return int(entry) if entry and entry.isdigit() else None

    def save_number(self, key: Hashable, number: int) -> None:
        """Save a fact about the programs, a number from 0 on."""
        if self._files is not None:
            self._files.write(self._name_of(key) + NUMBER_SUFFIX, str(number).encode())

    def delete_excess(self) -> None:
        """Delete the entries that were used longest ago, if there are more than there may be."""
        if self._files is not None:
            self._files.delete_excess()

    def _read(self, name: str) -> bytes | None:
        return None if self._files is None else self._files.read(name)

    def _name_of(self, key: Hashable) -> str:
        return make_hash(self._facts, key)

    def _name_of_lowered(self, lowered: Any) -> str:
        return make_hash(self._machine, lowered.as_text(), lowered.in_tree, lowered.out_tree) + PROGRAM_SUFFIX

    def _program(self, key: Hashable, name: str) -> Program | None:
        """Read a program; one that cannot be used is deleted."""
        entry = self._read(name)
        if entry is None:
            return None
        try:
            payload = memoryview(entry)[DIGEST_BYTES:]
            if sha256(payload).digest() != entry[:DIGEST_BYTES]:
                raise ValueError("it is damaged")
            executable, in_tree, out_tree = pickle.loads(payload)
            program = deserialize_and_load(executable, in_tree, out_tree, execution_devices=self.placement.devices)
        except Exception as error:  # whatever is wrong with it, it is compiled again
            log.warning("the compiled program %s is of no use and is made again: %s", name, first_line(error))
            assert self._files is not None
            self._files.delete(name)
            return None
        self.loaded_keys.add(key)
        return program


@cache
def hash_sources() -> str:
    """Return a hash of the library's sources that programs depend on."""
    root = Path(__file__).resolve().parents[1]
    digest = sha256()
    for file in sorted(file for directory in SOURCE_DIRS for file in (root / directory).rglob("*.py")):
        digest.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def make_hash(*facts: Any) -> str:
    """Return a hash of the facts' texts, which is the same in every process."""
    return sha256("\0".join(map(repr, map(str, facts))).encode()).hexdigest()[:40]
