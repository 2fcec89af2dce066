"""Safetensors: one file, or several with an index; values are views into the mapped file.

The head is checked as a whole before anything is read: its length, every offset, that tensors neither overlap nor leave
holes, and that type times shape is the bytes claimed. Layout: https://github.com/huggingface/safetensors, "Format".
"""

import json
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from jaxserve.config import MIB
from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.weights.mapped_file import MappedFile
from jaxserve.weights.protocol import TensorInfo, read_json

log = logging.getLogger(__name__)

SINGLE_FILE = "model.safetensors"
MAX_HEADER_BYTES = 100 * MIB
MAX_AXES = 16
MAX_VALUES = 1 << 48  # also where another axis is 0: numpy must be able to express the shape
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The place of one tensor; offset counts from the file's start."""

    file: MappedFile
    offset: int
    info: TensorInfo


class SafetensorsCheckpoint:
    """An opened directory in Hugging Face layout.

    folders   Those within whose tensors belong to the model; the folder and "/" begin their names.
    """

    has_param_layout = False

    def __init__(self, path: Path, folders: Sequence[str] = ()) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self.generation_config = read_json(path / "generation_config.json", missing_ok=True)
        self._stored: dict[str, StoredTensor] = {}
        index = _read_index(path)
        for file in _list_files(path, index):
            for name, stored in read_file(file).items():
                if name in self._stored:
                    raise BadCheckpoint(f"{path}: tensor {name!r} is in two files, one of them {file.name}.")
                self._stored[name] = stored
        _check_index(path, index, self._stored)
        for folder in folders:
            self._stored |= _read_folder(path, folder)
        self.tensors = {name: stored.info for name, stored in self._stored.items()}

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a read-only view of a part of the tensor's values in the mapped file."""
        stored = self._stored[name]
        return stored.file.view(stored.offset, stored.info.shape, stored.info.dtype)[part]

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> None:
        """Return None: no tensor is packed in this format."""

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's part of the file takes."""
        stored = self._stored[name]
        stored.file.release(stored.offset, stored.info.nbytes)


def _read_folder(path: Path, folder: str) -> dict[str, StoredTensor]:
    """Return the tensors of a folder's model.safetensors, under its name. Raises BadCheckpoint if there is none."""
    file = path / folder / SINGLE_FILE
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise BadCheckpoint(f"{path}: the folder {folder!r} is not in this directory.")
    if not file.is_file():
        pickled = any((path / folder).glob("*.bin"))
        reason = "; what is there is pickled, which can run code: convert it to .safetensors" if pickled else ""
        raise BadCheckpoint(f"{file} is missing{reason}.")
    return {f"{folder}/{name}": stored for name, stored in read_file(file).items()}


def read_file(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file, all checked against its length."""
    file = MappedFile(path)
    entries, data_start = _read_header(file)
    entries.pop("__metadata__", None)
    stored = {name: _read_entry(file, data_start, name, entry) for name, entry in entries.items()}
    _check_coverage(file, data_start, stored)
    return stored


def _read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """Return the head as JSON, and where the data begins."""
    if file.num_bytes < 8:
        raise BadCheckpoint(f"{file.path} is no safetensors file: it has only {file.num_bytes} bytes.")
    length = struct.unpack_from("<Q", file.buffer)[0]
    if length > MAX_HEADER_BYTES or length > file.num_bytes - 8:
        raise BadCheckpoint(f"{file.path} claims a head of {length} bytes, more than it has or we accept.")
    try:
        entries = json.loads(file.buffer[8 : 8 + length], object_pairs_hook=_reject_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file.path} has a head that is not valid JSON: {error}.") from None
    if not isinstance(entries, dict):
        raise BadCheckpoint(f"{file.path} has a head that is not a JSON object.")
    return entries, 8 + length


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    return entries


def _read_entry(file: MappedFile, data_start: int, name: str, entry: Any) -> StoredTensor:
    where = f"{file.path}: tensor {name[:200]!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str) or entry["dtype"] not in DTYPES:
        raise BadCheckpoint(f"{where} has no type that we know.")
    dtype, shape, offsets = DTYPES[entry["dtype"]], entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or len(shape) > MAX_AXES or prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise BadCheckpoint(f"{where} has no valid shape.")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadCheckpoint(f"{where} has no valid offsets.")
    begin, end = offsets
    if end > file.num_bytes - data_start:
        raise BadCheckpoint(f"{where} runs past the end of the file; is it cut short?")
    if prod(shape) * dtype.itemsize != end - begin:
        raise BadCheckpoint(f"{where} has shape {shape} of {entry['dtype']} but {end - begin} bytes.")
    return StoredTensor(file, data_start + begin, TensorInfo(tuple(shape), dtype, end - begin))


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 62 for item in value
    )


def _check_coverage(file: MappedFile, data_start: int, stored: dict[str, StoredTensor]) -> None:
    """Check that every byte after the head belongs to exactly one tensor."""
    expected = data_start
    for name, tensor in sorted(stored.items(), key=lambda item: (item[1].offset, item[1].info.nbytes)):
        if tensor.offset != expected:
            what = "overlaps the tensor before it" if tensor.offset < expected else "leaves a hole before it"
            raise BadCheckpoint(f"{file.path}: tensor {name[:200]!r} {what}.")
        expected += tensor.info.nbytes
    if expected != file.num_bytes:
        raise BadCheckpoint(f"{file.path} has {file.num_bytes - expected} bytes that belong to no tensor.")


def _find_index_file(path: Path) -> Path | None:
    indexes = sorted(path.glob("*.safetensors.index.json"))
    index = path / "model.safetensors.index.json"
    return index if index in indexes else next(iter(indexes), None)


def _read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor, as the index has it; empty where there is none, or one that is stale.

    Stale is an index beside a whole file that names others which are not there: it stays behind where shards were
    merged. Raises BadCheckpoint unless files are plain names in this directory.
    """
    file = _find_index_file(path)
    if file is None:
        return {}
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{file} has no weight_map.")
    for name, shard in weight_map.items():
        if (
            not isinstance(shard, str)
            or Path(shard).name != shard
            or "\\" in shard
            or not shard.endswith(".safetensors")
        ):
            raise BadCheckpoint(f"{file}: tensor {name[:200]!r} is not in a .safetensors file of the directory.")
    missing = sorted(shard for shard in set(weight_map.values()) if not (path / shard).exists())
    if missing and (path / SINGLE_FILE).exists():
        log.warning(
            "%s names %s, which is not there: it is passed over, and %s is loaded", file, missing[0], SINGLE_FILE
        )
        return {}
    return weight_map


def _list_files(path: Path, index: dict[str, str]) -> list[Path]:
    """List the files that make the model: those of the index, or model.safetensors, or all there are."""
    if index:
        return [path / file for file in sorted(set(index.values()))]
    whole = path / SINGLE_FILE
    return [whole] if whole.exists() else sorted(path.glob("*.safetensors"))


def _check_index(path: Path, index: dict[str, str], stored: dict[str, StoredTensor]) -> None:
    wrong = [name for name, file in index.items() if name not in stored or stored[name].file.path.name != file]
    if not wrong:
        return
    if set(index.values()) == {SINGLE_FILE}:  # then it says nothing that the file does not say better
        log.warning(
            "%s names the tensor %.200r, which is not in %s: it is passed over",
            _find_index_file(path),
            wrong[0],
            SINGLE_FILE,
        )
        return
    raise BadCheckpoint(f"{path}: tensor {wrong[0][:200]!r} is not in {index[wrong[0]]}, where the index says it is.")
