"""Orbax checkpoints of leaves: converted once, read back without conversion on any number of devices.

A directory with config.json (as Hugging Face writes it), generation_config.json, whatever tokenizer files lie beside,
and `weights/`, which orbax wrote: one array per leaf, named by its path, whole and without what a mesh fills up. Of a
packed leaf it is the data; the custom metadata say how it is packed. Orbax writes (orbax_writer.py); reading opens each
array with tensorstore, orbax's own storage, because its true shape is then known before anything of that size is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.block_forms import FORMS, GROUP_SIZE, PackedKind
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import data_shape, unpack_data
from jaxserve.weights.mapped_file import aligned_empty
from jaxserve.weights.protocol import TensorInfo, read_json

WEIGHTS_DIRECTORY = "weights"
METADATA_FILE = "_METADATA"
DRIVERS = {False: "zarr", True: "zarr3"}
FLOAT32 = np.dtype(np.float32)
MAX_SIZE = 1 << 40  # of an axis


def is_checkpoint(path: Path) -> bool:
    """Return whether the directory holds weights that orbax wrote."""
    return (path / WEIGHTS_DIRECTORY / METADATA_FILE).is_file()


@dataclass(frozen=True, slots=True)
class PackedLeaf:
    """A leaf that is stored packed. num_experts: of a stack, else None. is_table: its values are [out, in]."""

    kind: PackedKind
    width_in: int
    width_out: int
    num_experts: int | None = None
    is_table: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its values."""
        matrix = (self.width_out, self.width_in) if self.is_table else (self.width_in, self.width_out)
        return matrix if self.num_experts is None else (self.num_experts, *matrix)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of its data."""
        shape = data_shape(self.kind, self.width_in, self.width_out)
        return shape if self.num_experts is None else (self.num_experts, *shape)

    def locate(self, part: Part) -> tuple[Part, Part]:
        """Return the experts, groups and blocks in which a part of the values lies, and where in a matrix of theirs."""
        *experts, first, last = part or tuple(slice(0, size) for size in self.shape)
        groups, outputs = _cover(first if self.is_table else last, self.width_out, GROUP_SIZE)
        blocks, inputs = _cover(last if self.is_table else first, self.width_in, FORMS[self.kind].inputs)
        return (*experts, groups, blocks), (outputs, inputs) if self.is_table else (inputs, outputs)

    def unpack(self, data_GBX: np.ndarray) -> np.ndarray:
        """Return the values of the groups and blocks of a matrix, in the leaf's layout."""
        value_OI = unpack_data(data_GBX, self.kind)
        return value_OI if self.is_table else value_OI.T


def _cover(part: slice, width: int, size: int) -> tuple[slice, slice]:
    """Return the units of `size` numbers that have the numbers of a part, and the place of these numbers in them."""
    start, stop, step = part.indices(width)
    first = start // size
    if stop <= start:
        return slice(first, first), slice(0, 0)
    return slice(first, -(-stop // size)), slice(start - first * size, stop - first * size, step)


class OrbaxCheckpoint:
    """An opened directory that `jaxserve convert` wrote."""

    has_param_layout = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self.generation_config = read_json(path / "generation_config.json", missing_ok=True)
        metadata = read_json(path / WEIGHTS_DIRECTORY / METADATA_FILE)
        self._spec = _storage_spec(path, metadata)
        self.packed: Mapping[str, PackedLeaf] = _read_packed_leaves(path, metadata)
        self._stores = {name: self._open(name) for name in _read_names(path, metadata)}
        self.tensors = {name: self._info(name) for name in self._stores}
        if lost := self.packed.keys() - self._stores.keys():
            raise BadCheckpoint(f"{path}: the packed tensor {min(lost)[:200]!r} is not there.")

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of the leaf's values, of a packed one as float32; the chunks that have some of it are read.

        Raises BadCheckpoint if they cannot be read.
        """
        leaf = self.packed.get(name)
        if leaf is None:
            return self._read_stored(name, part)
        place, cut = leaf.locate(part)
        data = self._read_stored(name, place)
        if leaf.num_experts is None:
            return leaf.unpack(data)[cut]
        return np.stack([leaf.unpack(each_GBX)[cut] for each_GBX in data])

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> None:
        """Return None: what is packed is given by `read_packed`, as it lies in memory."""

    def read_packed(self, name: str, kind: PackedKind, part: Part) -> np.ndarray | None:
        """Return the data of a part of a leaf, if it is packed so."""
        leaf = self.packed.get(name)
        if leaf is None or leaf.kind != kind:
            return None
        place, _ = leaf.locate(part)
        return self._read_stored(name, place)

    def kind_of(self, name: str) -> PackedKind | None:
        """Return how the leaf is packed; None if it is not."""
        leaf = self.packed.get(name)
        return leaf and leaf.kind

    def _read_stored(self, name: str, part: Part) -> np.ndarray:
        import tensorstore as ts

        try:
            stored = self._stores[name][part]
            values = aligned_empty(stored.shape, stored.dtype.numpy_dtype)  # JAX may keep it; tensorstore's own, rarely
            ts.array(values).write(stored).result()
            return values
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unreadable(name, error) from error

    def release(self, name: str) -> None:
        """Do nothing: reading keeps no memory."""

    def _open(self, name: str) -> Any:
        import tensorstore as ts

        kvstore = self._spec["kvstore"] | {"path": name}
        try:
            return ts.open(self._spec | {"kvstore": kvstore}, open=True, read=True).result()
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unreadable(name, error) from error

    def _info(self, name: str) -> TensorInfo:
        """Return shape and type as stored; refuse chunks larger than the array, which would be unpacked whole."""
        store = self._stores[name]
        shape, dtype = tuple(store.shape), store.dtype.numpy_dtype
        chunk = store.chunk_layout.read_chunk.shape
        if any(part > max(whole, 1) for part, whole in zip(chunk, shape, strict=True)):
            raise BadCheckpoint(f"{self.path}: tensor {name!r} of shape {shape} has chunks of {tuple(chunk)}.")
        num_bytes, leaf = prod(shape) * dtype.itemsize, self.packed.get(name)
        if leaf is None:
            return TensorInfo(shape, dtype, num_bytes)
        if shape != leaf.data_shape or dtype != np.uint8:
            raise BadCheckpoint(f"{self.path}: tensor {name!r} of {dtype} {shape} is not {leaf.kind} {leaf.shape}.")
        return TensorInfo(leaf.shape, FLOAT32, num_bytes)

    def _unreadable(self, name: str, error: Exception) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}: tensor {name!r} cannot be read: {str(error)[:300]}")


def _storage_spec(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the tensorstore spec that all arrays share. A chunk that is not there is an error, not zeros."""
    driver = DRIVERS.get(metadata.get("use_zarr3", False))
    if driver is None or metadata.get("use_ocdbt") is not True:
        raise BadCheckpoint(f"{path / WEIGHTS_DIRECTORY} is kept in a form of orbax that is not read; save it again.")
    base = {"driver": "file", "path": f"{(path / WEIGHTS_DIRECTORY).resolve()}/"}
    return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base}, "fill_missing_data_reads": False}


def _read_names(path: Path, metadata: dict[str, Any]) -> list[str]:
    """Read the leaves' names; each is one key, because `save` writes a flat dictionary."""
    tree = metadata.get("tree_metadata")
    names = []
    for entry in tree.values() if isinstance(tree, dict) else ():
        keys = entry.get("key_metadata") if isinstance(entry, dict) else None
        if not isinstance(keys, list) or len(keys) != 1 or not isinstance(keys[0], dict):
            raise BadCheckpoint(f"{path / WEIGHTS_DIRECTORY / METADATA_FILE} is not the flat tree that jaxserve saves.")
        name = keys[0].get("key")
        if not isinstance(name, str) or not name or len(name) > 1024 or "\0" in name:
            raise BadCheckpoint(
                f"{path / WEIGHTS_DIRECTORY / METADATA_FILE} holds the unusable name {str(name)[:80]!r}."
            )
        names.append(name)
    if not names or len(set(names)) != len(names):
        raise BadCheckpoint(f"{path / WEIGHTS_DIRECTORY / METADATA_FILE} names no tensors, or one of them twice.")
    return names


def _read_packed_leaves(path: Path, metadata: dict[str, Any]) -> dict[str, PackedLeaf]:
    """Read which leaves are packed, and how."""
    custom = metadata.get("custom_metadata") or {}
    entries = custom.get("packed", {}) if isinstance(custom, dict) else None
    if not isinstance(entries, dict):
        raise BadCheckpoint(f"{path / WEIGHTS_DIRECTORY / METADATA_FILE} has custom metadata that are not jaxserve's.")
    return {name: _read_packed_leaf(path, name, entry) for name, entry in entries.items()}


def _read_packed_leaf(path: Path, name: str, entry: Any) -> PackedLeaf:
    where = f"{path}: the packed tensor {name[:200]!r}"
    if not isinstance(entry, dict) or set(entry) != {"kind", "width_in", "width_out", "num_experts", "is_table"}:
        raise BadCheckpoint(f"{where} is not described as jaxserve does.")
    sizes = [entry["width_in"], entry["width_out"], entry["num_experts"] or 1]
    is_size = all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < MAX_SIZE for size in sizes)
    if entry["kind"] not in tuple(FORMS) or not is_size or not isinstance(entry["is_table"], bool):
        raise BadCheckpoint(f"{where} is described by {str(entry)[:200]}, which is no form of packed weights.")
    return PackedLeaf(**entry)
