"""Files of compiled programs: those that a cache keeps for later starts.

Who can write such a file can run code, since a program is unpickled and its machine code is loaded. So directory and
files must be this user's alone (private_files.py); a file that is not is not opened.
"""

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from jaxserve.private_files import NotPrivate, make_private_directory, read_private_file, write_private_file

log = logging.getLogger(__name__)

PROGRAM_SUFFIX, NAME_SUFFIX, NUMBER_SUFFIX = ".program", ".name", ".number"  # the kinds of files
MAX_STORE_BYTES = 8 << 30  # of the stores of all machines and versions below one directory
_warned_lock, _warned_directories = threading.Lock(), set[Path]()  # a start has several stores in one directory


class ProgramFiles(Protocol):
    """The files of a program store. Safe in threads.

    machine   Stands in all names for the machine and the versions; None: those at hand.
    """

    @property
    def machine(self) -> str | None:
        """The words that stand in all names for the machine and the versions; None: those at hand."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's contents, or None if there is no such file or it cannot be trusted."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. That it cannot be written is logged and no error."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file that is of no use, if it can be deleted."""
        ...

    def delete_excess(self) -> None:
        """Delete files until they take no more than they may."""
        ...

    def tuning_directory(self) -> Path | None:
        """Return where a compiler may keep what it measured on this machine; None: nowhere."""
        ...


class CacheFiles:
    """The files of a private directory, which grow with every start and are deleted when they take too much.

    machine   As in ProgramFiles.
    """

    def __init__(self, directory: Path, machine: str | None = None) -> None:
        self.directory, self.machine = directory, machine
        self._used_names: set[str] = set()

    def read(self, name: str) -> bytes | None:
        """Return a file's contents, or None. One that cannot be read, or that others may write, is logged once."""
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

    def write(self, name: str, content: bytes) -> None:
        """Write a file, atomically. A full or read-only disk is logged once, as a warning."""
        self._used_names.add(name)
        try:
            write_private_file(self._path(name), content)
        except OSError as error:
            self._warn_once("kept", error)

    def delete(self, name: str) -> None:
        """Delete a file, if it can be deleted."""
        with suppress(OSError):
            self._path(name).unlink()

    def delete_excess(self, max_bytes: int = MAX_STORE_BYTES) -> None:
        """Delete the files that were used longest ago, until these and those beside them have at most max_bytes.

        Files that were used through this object stay. Age alone deletes nothing, since clocks jump.
        """
        entries: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for path in self.directory.parent.glob("*/*"):
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

    def tuning_directory(self) -> Path | None:
        """Return a private directory for what a compiler measured; None for other machines, or if it cannot be."""
        if self.machine is not None:
            return None
        try:
            return make_private_directory(self.directory / "tuning")
        except (OSError, NotPrivate) as error:
            self._warn_once("tuned as before", error)
            return None

    def _path(self, name: str) -> Path:
        return self.directory / Path(name).name

    def _warn_once(self, verb: str, error: Exception) -> None:
        with _warned_lock:
            has_warned = self.directory in _warned_directories
            _warned_directories.add(self.directory)
        if not has_warned:
            log.warning("compiled programs cannot be %s in %s: %s", verb, self.directory, first_line(error))


def first_line(error: Exception) -> str:
    """Return the first line of an error, which may have hundreds, for a log."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
