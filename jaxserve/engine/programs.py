"""Compiled programs on disk, found again without tracing: what makes a second start quick.

JAX's own cache is asked only after a function was traced and lowered, and that takes longer than reading the program.
Here a program has two names. One is a hash of all that shapes it (settings, shapes, versions, our sources), known
before anything is traced; the other a hash of what it was lowered to, so that a source which changed in its comments
costs the tracing and not the compiling. A file under the first name holds the second, one under that the program.

Reading a program unpickles it and loads machine code. It is as trusted as the code itself, like an entry of JAX's
cache: the directory is ours alone, and `use_compilation_cache` refuses one that others may write.
"""

import logging
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Hashable, Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

log = logging.getLogger(__name__)

Program = Any  # jax.stages.Compiled

SOURCE_DIRS = ("attention", "engine", "kvcache", "layers", "models", "sampling")  # whose sources shape programs
ENV_FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_CPU_ENABLE_FAST_MATH",
)
PROGRAM_SUFFIX, NAME_SUFFIX = ".program", ".name"  # the two kinds of files
DIGEST_BYTES = 32
MAX_AGE_S = 30 * 24 * 3600  # an entry that nobody asked for in this time is deleted


class ProgramStore:
    """The programs of one device, by key. `directory` None keeps nothing and finds nothing. Safe in threads.

    facts   whatever these programs depend on beside versions, our sources and the flags: shapes, types, settings
    loaded_keys   keys whose programs were here
    """

    def __init__(self, directory: Path | None, device: Any, facts: Iterable[Any] = ()) -> None:
        self._directory, self._device = directory, device
        flags = [os.environ.get(flag) for flag in ENV_FLAGS]
        self._machine = _hash(
            jax.__version__, device.client.platform_version, device.device_kind, device.id, flags, sys.version_info
        )
        self._facts = _hash(self._machine, hash_sources(), *facts)
        self.loaded_keys: set[Hashable] = set()
        self._lock = threading.Lock()
        self._has_warned = False

    def load(self, key: Hashable) -> Program | None:
        """The program that was last kept for this key, ready to run."""
        entry = self._read(self._name_of(key) + NAME_SUFFIX)
        return self._program(key, entry.decode(errors="replace")) if entry else None

    def load_lowered(self, key: Hashable, lowered: Any) -> Program | None:
        """The program that these very instructions were compiled to, ready to run; the next `find` is quicker."""
        program = self._program(key, name := self._name_of_lowered(lowered))
        if program is not None:
            self._write(self._name_of(key) + NAME_SUFFIX, name.encode())
        return program

    def save(self, key: Hashable, lowered: Any, program: Program) -> None:
        """Writes a freshly compiled program, whole or not at all. A full or read-only disk costs one warning.

        One that was itself loaded cannot be given out again: XLA for CPU would forget its symbols (jax 0.10.2).
        """
        if self._directory is None:
            return
        try:
            payload = pickle.dumps(serialize(program))
        except Exception as error:  # a backend that cannot give its programs out
            self._warn_once("kept", error)
            return
        name = self._name_of_lowered(lowered)
        self._write(name, sha256(payload).digest() + payload)
        self._write(self._name_of(key) + NAME_SUFFIX, name.encode())

    def delete_expired(self) -> None:
        """Deletes what was last used long ago: programs of settings, versions and sources that are gone."""
        with suppress(OSError):
            for path in self._directory.iterdir() if self._directory else ():
                if (
                    PROGRAM_SUFFIX in path.name or NAME_SUFFIX in path.name
                ) and time.time() - path.stat().st_mtime > MAX_AGE_S:
                    path.unlink()

    def _name_of(self, key: Hashable) -> str:
        return _hash(self._facts, key)

    def _name_of_lowered(self, lowered: Any) -> str:
        return _hash(self._machine, lowered.as_text(), lowered.in_tree, lowered.out_tree) + PROGRAM_SUFFIX

    def _program(self, key: Hashable, name: str) -> Program | None:
        """A program that cannot be used is deleted, and there is none."""
        entry = self._read(name)
        if entry is None:
            return None
        try:
            payload = memoryview(entry)[DIGEST_BYTES:]
            if sha256(payload).digest() != entry[:DIGEST_BYTES]:
                raise ValueError("it is damaged")
            executable, in_tree, out_tree = pickle.loads(payload)
            program = deserialize_and_load(executable, in_tree, out_tree, execution_devices=[self._device])
        except Exception as error:  # whatever is wrong with it, compiling it again puts it right
            log.warning("the compiled program %s is of no use and is made again: %s", name, _line(error))
            with suppress(OSError):
                self._path(name).unlink()
            return None
        self.loaded_keys.add(key)
        return program

    def _read(self, name: str) -> bytes | None:
        if self._directory is None:
            return None
        try:
            entry = self._path(name).read_bytes()
        except (FileNotFoundError, ValueError):  # ValueError: a name that is none
            return None
        except OSError as error:
            self._warn_once("read", error)
            return None
        with suppress(OSError):  # on a read-only disk nothing is swept either
            os.utime(self._path(name))
        return entry

    def _write(self, name: str, entry: bytes) -> None:
        path = self._path(name)
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # ours alone: mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(entry)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._warn_once("kept", error)

    def _path(self, name: str) -> Path:
        assert self._directory
        return self._directory / Path(name).name

    def _warn_once(self, verb: str, error: Exception) -> None:
        with self._lock:
            complained, self._has_warned = self._has_warned, True
        if not complained:
            log.warning("compiled programs cannot be %s in %s: %s", verb, self._directory, _line(error))


@cache
def hash_sources() -> str:
    """A hash of our own sources that shape programs."""
    root = Path(__file__).resolve().parents[1]
    found = sha256()
    for file in sorted(file for room in SOURCE_DIRS for file in (root / room).rglob("*.py")):
        found.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode() + file.read_bytes())
    return found.hexdigest()


def _hash(*facts: Any) -> str:
    return sha256("\0".join(map(repr, map(str, facts))).encode()).hexdigest()[:40]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
