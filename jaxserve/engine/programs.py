"""A store of compiled programs on disk, which are found without tracing: it makes every start after the first quick.

JAX's own cache is looked up only after a function was traced and lowered, which takes longer than reading the program.
Here a program has two names. One is a hash of everything that determines it (settings, shapes, versions, sources),
known before anything is traced; the other is a hash of what it lowers to, so that a changed comment in a source costs
the tracing but not the compilation. The file of the first name holds the second name, the file of that the program.

Loading a program unpickles it and loads machine code. It is trusted like the code itself, so directory and files must
be this user's alone (private_files.py); a file that is not is not opened.
"""

import logging
import os
import pickle
import sys
import threading
from collections.abc import Hashable, Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from jaxserve.parallel.placement import Placement
from jaxserve.private_files import NotPrivate, read_private_file, write_private_file

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
PROGRAM_SUFFIX, NAME_SUFFIX, NUMBER_SUFFIX = ".program", ".name", ".number"  # the kinds of files
DIGEST_BYTES = 32
MAX_STORE_BYTES = 8 << 30  # of the stores of all machines and versions below one directory
_warned_lock, _warned_directories = threading.Lock(), set[Path | None]()  # a start has several stores in one directory


class ProgramStore:
    """The compiled programs of one placement, by key. Safe in threads.

    directory     Where the programs are; None: nothing is saved and nothing found.
    placement     The devices that the programs run on.
    facts         Everything that the programs depend on besides versions, sources and flags: shapes, dtypes, settings.
    loaded_keys   The keys of the programs that were found.
    """

    def __init__(self, directory: Path | None, placement: Placement, facts: Iterable[Any] = ()) -> None:
        self._directory, self.placement = directory, placement
        flags = [os.environ.get(flag) for flag in ENV_FLAGS]
        self._machine = _hash(jax.__version__, *placement.key, flags, sys.version_info)
        self._facts = _hash(self._machine, hash_sources(), *facts)
        self.loaded_keys: set[Hashable] = set()
        self._used_names: set[str] = set()

    def load(self, key: Hashable) -> Program | None:
        """Return the program last saved for this key, ready to run, or None."""
        entry = self._read(self._name_of(key) + NAME_SUFFIX)
        return self._program(key, entry.decode(errors="replace")) if entry else None

    def load_lowered(self, key: Hashable, lowered: Any) -> Program | None:
        """Return the program compiled from these instructions, or None; from then on `load` finds it by its key."""
        program = self._program(key, name := self._name_of_lowered(lowered))
        if program is not None:
            self._write(self._name_of(key) + NAME_SUFFIX, name.encode())
        return program

    def save(self, key: Hashable, lowered: Any, program: Program) -> None:
        """Save a freshly compiled program, atomically. A full or read-only disk is logged once, as a warning.

        A program that was itself loaded must not be saved: XLA for CPU would lose its symbols (jax 0.10.2).
        """
        if self._directory is None:
            return
        try:
            payload = pickle.dumps(serialize(program))
        except Exception as error:  # a backend that cannot serialize its programs
            self._warn_once("kept", error)
            return
        name = self._name_of_lowered(lowered)
        self._write(name, sha256(payload).digest() + payload)
        self._write(self._name_of(key) + NAME_SUFFIX, name.encode())

    def load_number(self, key: Hashable) -> int | None:
        """Return the number last saved for this key, or None."""
        entry = self._read(self._name_of(key) + NUMBER_SUFFIX)
        return int(entry) if entry and entry.isdigit() else None

    def save_number(self, key: Hashable, number: int) -> None:
        """Save a fact about the programs, a number from 0 on."""
        if self._directory is not None:
            self._write(self._name_of(key) + NUMBER_SUFFIX, str(number).encode())

    def delete_excess(self, max_bytes: int = MAX_STORE_BYTES) -> None:
        """Delete the entries that were used longest ago, until this store and those beside it have at most max_bytes.

        Entries of this process stay. Age alone deletes nothing, since clocks jump.
        """
        if self._directory is None:
            return
        entries: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for path in self._directory.parent.glob("*/*"):
                if any(suffix in path.name for suffix in (PROGRAM_SUFFIX, NAME_SUFFIX, NUMBER_SUFFIX)):
                    facts = path.lstat()
                    entries.append((facts.st_mtime, facts.st_size, path))
        excess = sum(size for _, size, _ in entries) - max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            if path.name not in self._used_names:
                with suppress(OSError):
                    path.unlink()
                    excess -= size

    def _name_of(self, key: Hashable) -> str:
        return _hash(self._facts, key)

    def _name_of_lowered(self, lowered: Any) -> str:
        return _hash(self._machine, lowered.as_text(), lowered.in_tree, lowered.out_tree) + PROGRAM_SUFFIX

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
            log.warning("the compiled program %s is of no use and is made again: %s", name, _first_line(error))
            with suppress(OSError):
                self._path(name).unlink()
            return None
        self.loaded_keys.add(key)
        return program

    def _read(self, name: str) -> bytes | None:
        if self._directory is None:
            return None
        try:
            entry = read_private_file(self._path(name))
        except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
            return None
        except (OSError, NotPrivate) as error:
            self._warn_once("read", error)
            return None
        with suppress(OSError):  # a read-only disk; nothing is deleted there either
            os.utime(self._path(name))
        self._used_names.add(name)
        return entry

    def _write(self, name: str, entry: bytes) -> None:
        path = self._path(name)
        self._used_names.add(name)
        try:
            write_private_file(path, entry)
        except OSError as error:
            self._warn_once("kept", error)

    def _path(self, name: str) -> Path:
        assert self._directory
        return self._directory / Path(name).name

    def _warn_once(self, verb: str, error: Exception) -> None:
        with _warned_lock:
            has_warned = self._directory in _warned_directories
            _warned_directories.add(self._directory)
        if not has_warned:
            log.warning("compiled programs cannot be %s in %s: %s", verb, self._directory, _first_line(error))


@cache
def hash_sources() -> str:
    """Return a hash of the library's sources that programs depend on."""
    root = Path(__file__).resolve().parents[1]
    digest = sha256()
    for file in sorted(file for directory in SOURCE_DIRS for file in (root / directory).rglob("*.py")):
        digest.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _hash(*facts: Any) -> str:
    return sha256("\0".join(map(repr, map(str, facts))).encode()).hexdigest()[:40]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
