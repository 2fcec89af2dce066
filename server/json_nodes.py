"""Counts the values of a JSON text before it is parsed, at the speed of reading it.

A value of two bytes costs some sixty once it is parsed, and the time of every check that walks over it, so a limit of
bytes alone does not limit the work.
"""

import re

_SLICE_BYTES = 256 * 1024  # for whose time, about 10 ms, no other thread runs
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRING = re.compile(rb'"' + _IN_STRING.pattern + rb'"', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|' + _STRING.pattern + rb")*+", re.DOTALL)


def has_more_nodes(data: bytes, max_nodes: int) -> bool:
    """Tell whether a JSON text has more than max_nodes values, or a quarter as many arrays and objects.

    Each array, object, and item of one counts, and empty ones twice. What is no JSON may be counted as anything.
    """
    if not _is_excess(*_count(data), max_nodes):  # with what strings hold
        return False
    num_containers = num_commas = position = 0
    while position < len(data):
        end = min(position + _SLICE_BYTES, len(data))
        # Without a string that goes on behind the slice: each quote in it would be tried as the start of a string.
        whole_end = _end_of_match(_WHOLE_STRINGS, data, position, end)
        more_containers, more_commas = _count(_STRING.sub(b"", data[position:whole_end]))
        num_containers, num_commas = num_containers + more_containers, num_commas + more_commas
        if _is_excess(num_containers, num_commas, max_nodes):
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


def _count(data: bytes) -> tuple[int, int]:
    return data.count(b"[") + data.count(b"{"), data.count(b",")


def _is_excess(num_containers: int, num_commas: int, max_nodes: int) -> bool:
    return num_containers + num_commas > max_nodes or num_containers > max_nodes // 4
