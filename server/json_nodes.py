"""Counts the values of a JSON text before it is parsed, at the speed of reading it.

A value of two bytes costs some sixty once it is parsed, and the time of every check that walks over it, so a limit of
bytes alone does not limit the work. No other thread runs while one is parsed: an item takes 0.05 us, the member of an
object with a key of its own 0.4, and an object 1.2, so that there may be fewest of these.
"""

import re
from typing import NamedTuple

MAX_SHARE_MEMBERS = 4  # one in so many values may be a member of an object
MAX_SHARE_CONTAINERS = 8  # and one in so many an array or object
_SLICE_BYTES = 256 * 1024  # for whose time, about 10 ms, no other thread runs
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRING = re.compile(rb'"' + _IN_STRING.pattern + rb'"', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|' + _STRING.pattern + rb")*+", re.DOTALL)


class _Counts(NamedTuple):
    containers: int = 0
    commas: int = 0
    colons: int = 0

    def add(self, other: "_Counts") -> "_Counts":
        return _Counts(*map(sum, zip(self, other, strict=True)))

    def exceed(self, max_nodes: int) -> bool:
        """Tell whether these are more than max_nodes values, or too many members or containers beside it."""
        has_many_members = self.colons > max_nodes // MAX_SHARE_MEMBERS
        has_many_containers = self.containers > max_nodes // MAX_SHARE_CONTAINERS
        return self.containers + self.commas > max_nodes or has_many_members or has_many_containers


def has_more_nodes(data: bytes, max_nodes: int) -> bool:
    """Tell whether a JSON text has more than max_nodes values, or their shares of members, or of arrays and objects.

    Each array, object, and item of one counts, and empty ones twice. What is no JSON may be counted as anything.
    """
    if not _count(data).exceed(max_nodes):  # with what strings hold
        return False
    counts, position = _Counts(), 0
    while position < len(data):
        end = min(position + _SLICE_BYTES, len(data))
        # Without a string that goes on behind the slice: each quote in it would be tried as the start of a string.
        whole_end = _end_of_match(_WHOLE_STRINGS, data, position, end)
        counts = counts.add(_count(_STRING.sub(b"", data[position:whole_end])))
        if counts.exceed(max_nodes):
            return True
        position = end if whole_end == end else _skip_string(data, whole_end + 1)
    return False


def _skip_string(data: bytes, position: int) -> int:
    """Return the position behind the quote that ends a string, or the end of the text if there is none."""
    while position < len(data) - 1:
        # One more byte than a slice has, which may be one byte: an escape has two.
        position = _end_of_match(_IN_STRING, data, position, position + _SLICE_BYTES + 1)
        if data[position : position + 1] == b'"':
            return position + 1
    return len(data)


def _end_of_match(pattern: re.Pattern[bytes], data: bytes, start: int, end: int) -> int:
    match = pattern.match(data, start, end)
    return match.end() if match else start


def _count(data: bytes) -> _Counts:
    return _Counts(data.count(b"[") + data.count(b"{"), data.count(b","), data.count(b":"))
