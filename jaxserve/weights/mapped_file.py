"""Memory-mapped files, and memory that JAX adopts without a copy."""

import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import check_ordinary

ALIGNMENT_BYTES = 64  # the CPU client adopts a numpy buffer that starts on such an address (JAX 0.10, measured)


class MappedFile:
    """A read-only mapping of one file; its pages are given back range by range with `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_ordinary(path)
            with open(path, "rb") as file:
                self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise BadCheckpoint(f"{path} is missing.") from None
        except (OSError, ValueError) as error:
            raise BadCheckpoint(f"{path} cannot be read: {error}.") from error
        self.num_bytes = len(self.buffer)

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return a read-only view of the values at `offset`; the caller has checked that they lie inside the file."""
        return np.frombuffer(self.buffer, dtype, prod(shape), offset).reshape(shape)

    def release(self, offset: int, num_bytes: int) -> None:
        """Drop the pages wholly inside the range from memory; they would come back from disk if read again."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED, start, end - start)


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return an empty array as np.empty does, on an address that jax.device_put can adopt on the CPU."""
    num_bytes = prod(shape) * dtype.itemsize
    raw = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def is_zero_copyable(array: np.ndarray) -> bool:
    """Return whether the array owns its memory (is no view into a file), is contiguous and aligned."""
    return bool(array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT_BYTES == 0)
