"""Huge pages for the weights of CPUs, which a decode step reads once each.

With pages of 4 KiB a processor waits for their addresses: two threads of a two-core EPYC with AVX2 read 13 GB/s from
them, 18 GB/s from pages of 2 MiB. Linux gives those to whoever asks for them with madvise ("Transparent Hugepage
Support" in its manual). numpy asks from 4 MiB on, and most matrices of a small or quantized model have less.
"""

import mmap
import threading
from contextlib import suppress

import numpy as np

from jaxserve.weights.mapped_file import ALIGNMENT_BYTES, aligned_empty

REGION_BYTES = 32 << 20
# Larger arrays get memory of their own, and by numpy huge pages for all of it but its ends.
MAX_ARRAY_BYTES = REGION_BYTES // 2


class WeightMemory:
    """Regions of huge pages in which arrays lie side by side; any number of threads may ask for room.

    A region lives as long as one of its arrays. What has not been written of it takes no memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._region = np.zeros(0, np.uint8)
        self._used_bytes = 0

    def keep(self, values: np.ndarray) -> np.ndarray:
        """Return the array in huge pages, on an address that jax.device_put can adopt, or itself if it is large."""
        if not 0 < values.nbytes <= MAX_ARRAY_BYTES:
            return values
        kept = self._take(values.nbytes).view(values.dtype).reshape(values.shape)
        np.copyto(kept, values)
        return kept

    def _take(self, num_bytes: int) -> np.ndarray:
        with self._lock:
            if self._used_bytes + num_bytes > self._region.nbytes:
                self._region, self._used_bytes = allocate_region(), 0
            start = self._used_bytes
            self._used_bytes += -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            return self._region[start : start + num_bytes]


def allocate_region() -> np.ndarray:
    """Return uint8 [REGION_BYTES] that takes no memory yet, in huge pages where the system has them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_empty((REGION_BYTES,), np.dtype(np.uint8))
    region = mmap.mmap(-1, REGION_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # from a kernel that was built without them
        region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)
