"""Equality of the plain values that cross threads: dataclasses and tuples with arrays in them."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def equal_values(left: Any, right: Any) -> bool:
    """Whether two values have the same types, arrays the same dtypes and shapes, and the same contents.

    It is the `__eq__` of dataclasses that hold arrays.
    """
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(equal_values, left, right))
    if is_dataclass(left):
        return all(equal_values(getattr(left, field.name), getattr(right, field.name)) for field in fields(left))
    return bool(left == right)
