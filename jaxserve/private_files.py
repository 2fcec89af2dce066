"""Directories and files that only this user can change, from which code may be loaded.

Compiled programs are unpickled and the native library is loaded into the process, so whoever can write them, or swap
them by renaming a directory above them, can run code. A digest beside a file is no protection, because its writer can
make one, too.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

PRIVATE_DIRECTORY, OTHERS_MAY_WRITE = 0o700, stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(Exception):
    """A directory or a file that someone else can change. The text says which, why, and what to do."""


def make_private_directory(path: Path) -> Path:
    """Create a directory for this user alone, with the directories above it that are missing, and return its real path.

    Raises NotPrivate if someone other than this user or root can change it, its name or that of a directory above it;
    OSError if it cannot be created.
    """
    path = Path(os.path.abspath(path))
    make_missing_directories(path)
    return check_private_directory(path)


def check_private_directory(path: Path) -> Path:
    """Return the real path of a directory that is there.

    Raises NotPrivate if someone other than this user or root can change it, its name or that of a directory above it;
    OSError if it cannot be looked at.
    """
    path = Path(os.path.abspath(path))
    if os.name != "posix":
        return path
    if path.is_symlink():
        raise NotPrivate(f"{path} is a symbolic link; name the directory that it leads to.")
    for name in (*reversed(path.parents), path):
        _check_owner(name, os.lstat(name))
    real_path = path.resolve()
    for directory in (*reversed(real_path.parents), real_path):
        facts = os.lstat(directory)
        _check_owner(directory, facts)
        # In a sticky directory, such as /tmp, others may create names and cannot change those that are there.
        may_write = facts.st_mode & OTHERS_MAY_WRITE and not (facts.st_mode & stat.S_ISVTX and directory != real_path)
        if may_write and not (facts.st_mode & OTHERS_MAY_WRITE == stat.S_IWGRP and _is_private_group(facts.st_gid)):
            raise NotPrivate(f"others may write {directory}; run chmod go-w on it.")
    return real_path


def check_private_file(path: Path) -> None:
    """Check a file of a private directory.

    Raises NotPrivate if someone else can change it or it is no ordinary file, OSError if it is missing.
    """
    _check_file(path, os.lstat(path))


def read_private_file(path: Path) -> bytes:
    """Return the contents of a file of a private directory.

    Raises NotPrivate if someone else can change it or it is no ordinary file, OSError if it cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    _check_kind(path, os.lstat(path))
    with os.fdopen(os.open(path, flags), "rb") as file:
        _check_file(path, os.fstat(file.fileno()))
        return file.read()


def write_private_file(path: Path, content: bytes) -> None:
    """Write a file of a private directory for this user alone: whole, or not at all.

    Raises OSError if it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def make_missing_directories(path: Path) -> None:
    """Create a directory, and those above it that are missing, for this user alone.

    One by one: mkdir(parents=True) gives only the last one the mode. Raises OSError if one cannot be created, and
    NotADirectoryError if a file has the name.
    """
    for directory in (*reversed(path.parents), path):
        try:
            directory.mkdir(mode=PRIVATE_DIRECTORY)
        except FileExistsError:
            pass
        except OSError:
            if not directory.is_dir():  # one that exists on a read-only file system gives another error
                raise
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a directory")


def _check_kind(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise NotPrivate(f"{path} is no ordinary file; delete it.")


def _check_file(path: Path, facts: os.stat_result) -> None:
    _check_kind(path, facts)
    if os.name != "posix":
        return
    _check_owner(path, facts)
    if facts.st_mode & OTHERS_MAY_WRITE:
        raise NotPrivate(f"others may write {path}; delete it.")


def _check_owner(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid not in (0, os.geteuid()):
        raise NotPrivate(f"{path} belongs to another user (uid {facts.st_uid}); name a directory of your own.")


def _is_private_group(gid: int) -> bool:
    """Tell whether a group is this user's alone, as many Linux systems give every user one."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
