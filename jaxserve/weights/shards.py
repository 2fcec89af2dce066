"""The parts of a weight that each device holds, read from the checkpoint's tensors."""

from collections.abc import Sequence

import numpy as np

from jaxserve.layers.param_spec import Origin, ParamSpec, Part, ReadPart


def read_shard(
    origin: Origin, read_part: ReadPart, param: ParamSpec, shape: Sequence[int], index: Sequence[slice]
) -> np.ndarray:
    """Return a device's part of a weight, a view where the reader gives one. Nothing else is read.

    origin      Where the checkpoint has the weight.
    read_part   The checkpoint's reader.
    param       The weight, whose axes say what happens where the array is larger: key heads are repeated, all else is
                filled up with zeros.
    shape       The shape of the array on all devices together.
    index       The part of it that the device holds.
    """
    part, num_zeros = find_part(param, shape, index)
    values = origin.read(read_part, part)
    return np.pad(values, [(0, num) for num in num_zeros]) if any(num_zeros) else values


def find_part(param: ParamSpec, shape: Sequence[int], index: Sequence[slice]) -> tuple[Part, tuple[int, ...]]:
    """Return which part of the weight a device's part of the array is made of, and the zeros behind it on each axis."""
    ranges = [
        _find_range(part, size, whole, axis == "kv_heads")
        for part, size, whole, axis in zip(index, param.shape, shape, param.axes, strict=True)
    ]
    return tuple(slice(start, stop) for start, stop, _ in ranges), tuple(num for _, _, num in ranges)


def _find_range(part: slice, size: int, whole: int, is_repeated: bool) -> tuple[int, int, int]:
    """Return start and stop along an axis of the weight, and how many zeros follow.

    part    The slice of the whole array that a device holds.
    size    The size of the weight's axis.
    whole   The size of the whole array's axis; more than `size` if the axis is repeated or filled up.
    """
    start, stop, _ = part.indices(whole)
    if is_repeated and whole > size:
        num = stop - start
        start = start // num // (whole // size) * num
        return start, start + num, 0
    first, last = min(start, size), min(stop, size)
    return first, last, stop - start - (last - first)
