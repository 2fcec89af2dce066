"""The parts of a weight that each device holds, cut out of the checkpoint's tensors."""

from collections.abc import Sequence

import numpy as np

from jaxserve.layers.param_spec import Origin, ParamSpec


def cut_shard(
    origin: Origin, parts: Sequence[np.ndarray], param: ParamSpec, shape: tuple[int, ...], index: tuple[slice, ...]
) -> np.ndarray:
    """Return a device's part of a weight, a view where the parts allow it.

    origin   Where the checkpoint has the weight.
    parts    Its tensors, in the leaf's layout.
    param    The weight, whose axes say what happens where the array is larger: key heads are repeated, all else is
             filled up with zeros.
    shape    The shape of the array on all devices together.
    index    The part of it that the device holds.
    """
    ranges = [
        _find_range(part, size, whole, axis == "kv_heads")
        for part, size, whole, axis in zip(index, param.shape, shape, param.axes, strict=True)
    ]
    cut = tuple(slice(start, stop) for start, stop, _ in ranges)
    values = parts[0][cut] if origin.combine == "take" else np.stack([part[cut[1:]] for part in parts[cut[0]]])
    paddings = [(0, num) for _, _, num in ranges]
    return np.pad(values, paddings) if any(num for _, num in paddings) else values


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
