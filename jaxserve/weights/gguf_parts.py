"""The files of a GGUF model: one, or the parts that llama-gguf-split cuts a large one into.

Every part has a head of its own with some of the tensors; the metadata of the model are those of the first.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.gguf_files import list_parts
from jaxserve.weights.gguf_header import GGUFHeader, GGUFTensor, read_header
from jaxserve.weights.gguf_metadata import is_int


def read_headers(path: Path) -> list[GGUFHeader]:
    """Return the head of a file, or those of all parts if it is the first of some.

    Raises BadCheckpoint if a part is missing or belongs to another model, or if the path names another than the first.
    """
    first = read_header(path)
    num = first.metadata.get("split.count", 1)
    if num in (0, 1):
        return [first]
    if not is_int(num) or not 0 < num < 1 << 16:
        raise BadCheckpoint(f"{path}: metadata 'split.count' is {str(num)[:80]!r}; it should be a number of files.")
    names = list_parts(path.name)
    if len(names) != num:
        raise BadCheckpoint(
            f"{path} is one part of {num}, whose names should end in -00001-of-{num:05}.gguf and so on; rename them, "
            "or join them with llama-gguf-split --merge."
        )
    if names[0] != path.name:
        raise BadCheckpoint(f"{path} is one part of {num}; name the first, {path.with_name(names[0])}.")
    headers = [first, *(read_header(path.with_name(name)) for name in names[1:])]
    for index, header in enumerate(headers):
        found = header.metadata.get("split.no"), header.metadata.get("split.count")
        if found != (index, num):
            raise BadCheckpoint(
                f"{header.path} says that it is part {found[0]}, from 0 on, of {found[1]}, not {index}."
            )
    expected, num_tensors = first.metadata.get("split.tensors.count"), sum(len(each.tensors) for each in headers)
    if expected is not None and expected != num_tensors:
        raise BadCheckpoint(f"{path} and its other parts have {num_tensors} tensors, and should have {expected}.")
    return headers


def merge_tensors(headers: list[GGUFHeader]) -> dict[str, GGUFTensor]:
    """Return all tensors, each with its part. Raises BadCheckpoint if two parts have one of the same name."""
    tensors: dict[str, GGUFTensor] = {}
    for name, tensor, path in _list_tensors(headers):
        if name in tensors:
            raise BadCheckpoint(f"{path}: tensor {name!r} is in an earlier part, too.")
        tensors[name] = tensor
    return tensors


def _list_tensors(headers: list[GGUFHeader]) -> Iterator[tuple[str, GGUFTensor, Path]]:
    for part, header in enumerate(headers):
        for name, tensor in header.tensors.items():
            yield name, replace(tensor, part=part), header.path
