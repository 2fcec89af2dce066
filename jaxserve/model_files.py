"""Reads files of a model, which may be damaged or hostile: a fault is one sentence, and nothing is read for ever."""

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxserve.errors import BadCheckpoint, JaxServeError

log = logging.getLogger(__name__)

MIB = 1 << 20
MAX_TOKENIZER_BYTES = 256 * MIB  # the largest that is known, of 262,144 tokens, has 33 MiB
MAX_TEMPLATE_BYTES = MIB  # parsing takes up to 170 times as much memory; known templates have 40 KiB at most


def read_model_file(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a file.

    Raises BadCheckpoint if it is no ordinary file, such as a pipe, which could be read for ever, or larger than
    max_bytes; OSError if it cannot be read.
    """
    if check_ordinary(path) > max_bytes:
        raise BadCheckpoint(f"{path} is larger than {max_bytes // MIB} MiB, too large for what it should hold.")
    return path.read_bytes()


def check_ordinary(path: Path) -> int:
    """Check that a file can be opened and read to its end, and return its length in bytes.

    Raises BadCheckpoint if it is no ordinary file, such as a pipe, at which even opening waits for ever; OSError.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise BadCheckpoint(f"{path} is no ordinary file.")
    return facts.st_size


def read_model_text(path: Path, max_bytes: int) -> str:
    """Return the text of a file. Raises BadCheckpoint as `read_model_file`, and if it is not UTF-8; OSError."""
    try:
        return read_model_file(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from None


@contextmanager
def blame_model_files(what: str) -> Iterator[None]:
    """Turn any exception that nobody has foreseen into one sentence about `what`, which is read in this context.

    The libraries that read these files raise whatever a damaged one makes them run into, panics of Rust included, which
    are no Exception. The traceback is logged at level debug.

    Raises BadCheckpoint in place of every exception but those of the library, and requests to end the process.
    """
    try:
        yield
    except (JaxServeError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        log.debug("%s cannot be used", what, exc_info=True)
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise BadCheckpoint(f"{what} cannot be used: {type(error).__name__}: {reason}.") from None
