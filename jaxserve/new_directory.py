"""New directories that appear when all of their contents are written, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxserve.errors import BadConfig, StartupError

SPARE_BYTES = 64 << 20  # of disk, for small files and what formats add to the values


def check_destination(path: Path) -> None:
    """Check that a directory is not there yet, or is empty. Raises BadConfig if not."""
    try:
        is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise BadConfig(f"Cannot look into {path}: {error.strerror or error}.") from error
    if not is_free:
        raise BadConfig(f"{path} is there and not an empty directory; name another one, or delete it first.")


@contextmanager
def make_directory(path: Path, num_bytes: int = 0) -> Iterator[Path]:
    """Make a directory beside `path` that takes its name when all is written, or else is deleted.

    num_bytes   What will be written, as far as it is known.

    Raises StartupError if the disk is too small, or takes nothing.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < num_bytes + SPARE_BYTES:
            raise StartupError(
                f"{path} takes {(num_bytes + SPARE_BYTES) / 1e9:.2f} GB and {path.parent} has {free / 1e9:.2f} GB free."
            )
        directory = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        directory.mkdir()
        try:
            yield directory
            os.rename(directory, path)  # over an empty directory, too
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    except OSError as error:
        raise StartupError(f"Cannot write {path}: {error.strerror or error}.") from error
