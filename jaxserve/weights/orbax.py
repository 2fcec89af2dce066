"""Orbax checkpoints of placed leaves: converted once, read back without conversion.

A directory with config.json (as Hugging Face writes it), generation_config.json, whatever tokenizer files lie beside,
and `weights/`, which orbax wrote: one array per leaf, named by its path. Orbax writes; reading opens each array with
tensorstore, orbax's own storage, because its true shape is then known before anything of that size is made.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.param_spec import Part
from jaxserve.layers.quant import PackedKind
from jaxserve.weights.protocol import TensorInfo, read_json

WEIGHTS_DIRECTORY = "weights"
METADATA_FILE = "_METADATA"
DRIVERS = {False: "zarr", True: "zarr3"}
CHUNK_BYTES = 1 << 20  # a device's part of a weight is read in whole chunks; orbax would write each weight as one


def is_checkpoint(path: Path) -> bool:
    """Return whether the directory holds weights that orbax wrote."""
    return (path / WEIGHTS_DIRECTORY / METADATA_FILE).is_file()


def save_checkpoint(
    path: Path, params: Mapping[tuple[Any, ...], jax.Array], config: dict, generation_config: dict
) -> None:
    """Write placed leaves and the model's config into the directory; refuse one that already holds weights."""
    import orbax.checkpoint as ocp

    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    (path / "generation_config.json").write_text(json.dumps(generation_config, indent=2))
    with ocp.PyTreeCheckpointer() as checkpointer:
        leaves = {".".join(map(str, key)): leaf for key, leaf in params.items()}
        save_args = {name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in leaves}
        checkpointer.save(path.resolve() / WEIGHTS_DIRECTORY, leaves, save_args=save_args)


class OrbaxCheckpoint:
    """An opened directory that `save_checkpoint` wrote."""

    has_param_layout = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self.generation_config = read_json(path / "generation_config.json", missing_ok=True)
        metadata = read_json(path / WEIGHTS_DIRECTORY / METADATA_FILE)
        self._spec = _storage_spec(path, metadata)
        self._stores = {name: self._open(name) for name in _read_names(path, metadata)}
        self.tensors = {name: self._info(name) for name in self._stores}

    def read(self, name: str, part: Part = ()) -> np.ndarray:
        """Return a part of the leaf's values as stored; the chunks that have some of it are read.

        Raises BadCheckpoint if they cannot be read.
        """
        try:
            return self._stores[name][part].read().result()
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unreadable(name, error) from error

    def read_blocks(self, name: str, kind: PackedKind, part: Part = ()) -> None:
        """Return None: no tensor is packed in this format."""

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
        return TensorInfo(shape, dtype, prod(shape) * dtype.itemsize)

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
