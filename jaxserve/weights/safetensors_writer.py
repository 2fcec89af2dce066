"""Writing of safetensors: files of a few gigabytes and their index, tensor by tensor."""

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxserve.weights.pending import PendingTensor, ProgressCallback, make_in_order
from jaxserve.weights.safetensors import DTYPES, SINGLE_FILE

MAX_FILE_BYTES = 5 * 10**9  # as Hugging Face's own files; a larger tensor has a file of its own
INDEX_FILE = "model.safetensors.index.json"
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Sequence[PendingTensor], progress: ProgressCallback | None = None) -> None:
    """Write tensors into files in the directory. progress: called with ("convert", bytes written, bytes in all)."""
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    files = list(_divide(tensors))
    arrays = make_in_order([tensor for file in files for tensor in file])
    names = [_file_name(index, len(files)) for index in range(len(files))]
    for name, file_tensors in zip(names, files, strict=True):
        with open(path / name, "wb") as file:
            file.write(_make_head(file_tensors))
            for _, array in zip(file_tensors, arrays, strict=False):
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                done += array.nbytes
                if progress:
                    progress("convert", done, max(total, 1))
    if len(files) > 1:
        weight_map = {tensor.name: name for name, each in zip(names, files, strict=True) for tensor in each}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / INDEX_FILE).write_text(json.dumps(index, indent=2))


def _divide(tensors: Sequence[PendingTensor]) -> Iterator[list[PendingTensor]]:
    """Yield the tensors of each file."""
    file: list[PendingTensor] = []
    for tensor in tensors:
        if file and sum(each.nbytes for each in file) + tensor.nbytes > MAX_FILE_BYTES:
            yield file
            file = []
        file.append(tensor)
    yield file


def _file_name(index: int, num_files: int) -> str:
    return SINGLE_FILE if num_files == 1 else f"model-{index + 1:05}-of-{num_files:05}.safetensors"


def _make_head(tensors: Sequence[PendingTensor]) -> bytes:
    """Return the head of a file with these tensors, one behind the other. Data begin on a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor.nbytes
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
