"""Saved leaves that were damaged or tampered with are refused by name."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.errors import BadCheckpoint
from jaxserve.weights import orbax_writer
from jaxserve.weights.checkpoint import open_checkpoint
from tests.weights import tiny


@pytest.fixture
def saved(tmp_path):
    leaves = {("embed", "table"): jnp.ones((64, 33)), ("layers", 0, "scale"): jnp.arange(7.0, dtype=jnp.bfloat16)}
    return tiny.write_orbax(tmp_path / "saved", leaves)


def tampered(saved, **changes):
    file = saved / "weights" / "_METADATA"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return saved


def tree(*keys):
    return {"x": {"key_metadata": [{"key": key, "key_type": 2} for key in keys]}}


def packed(name, **changes):
    described = {"kind": "int8", "width_in": 33, "width_out": 64, "num_experts": None, "is_table": False}
    return {"packed": {name: described | changes}}


def test_leaves_are_named_by_their_paths(saved):
    tensors = open_checkpoint(saved).tensors
    assert {name: info.shape for name, info in tensors.items()} == {"embed.table": (64, 33), "layers.0.scale": (7,)}
    assert tensors["layers.0.scale"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_zarr3": "yes"}, "a form of orbax that is not read"),
        ({"use_ocdbt": False}, "a form of orbax that is not read"),
        ({"tree_metadata": {}}, "names no tensors"),
        ({"tree_metadata": []}, "names no tensors"),
        ({"tree_metadata": {"x": 1}}, "not the flat tree"),
        ({"tree_metadata": tree("a", "b")}, "not the flat tree"),
        ({"tree_metadata": tree(3)}, "unusable name"),
        ({"tree_metadata": tree("x" * 9999)}, "unusable name"),
        ({"tree_metadata": tree("ghost")}, "'ghost' cannot be read"),
        ({"tree_metadata": tree("../../etc/passwd")}, "cannot be read"),
        ({"use_zarr3": True}, "cannot be read"),
        ({"custom_metadata": [1]}, "custom metadata that are not jaxserve's"),
        ({"custom_metadata": {"packed": 1}}, "custom metadata that are not jaxserve's"),
        ({"custom_metadata": packed("embed.table")}, "'embed.table' of float32 (64, 33) is not int8 (33, 64)"),
        ({"custom_metadata": packed("embed.table", bits=8)}, "is not described as jaxserve does"),
        ({"custom_metadata": packed("embed.table", kind=["int8"])}, "is no form of packed weights"),
        ({"custom_metadata": packed("embed.table", width_in=-1)}, "is no form of packed weights"),
        ({"custom_metadata": packed("embed.table", num_experts=1.5)}, "is no form of packed weights"),
        ({"custom_metadata": packed("ghost")}, "the packed tensor 'ghost' is not there"),
    ],
)
def test_metadata_that_lies_is_refused(saved, changes, reason):
    with pytest.raises(BadCheckpoint, match=r"saved") as caught:
        open_checkpoint(tampered(saved, **changes))
    assert reason in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_cut_data_is_refused(saved, keep):
    for file in (saved / "weights").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        checkpoint = open_checkpoint(saved)
        for name in checkpoint.tensors:
            checkpoint.read(name)


def test_chunks_larger_than_their_array_are_refused(saved):
    import tensorstore as ts

    base = {"driver": "file", "path": f"{saved / 'weights'}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": "embed.table"}
    metadata = {"shape": [4], "chunks": [1 << 40], "dtype": "<f4", "compressor": {"id": "zstd", "level": 1}}
    spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
    ts.open(spec, create=True, delete_existing=True).result()
    with pytest.raises(BadCheckpoint, match=r"'embed\.table' of shape \(4,\) has chunks of"):
        open_checkpoint(saved)


def read_bytes() -> int:
    """Return the bytes that tensorstore has read from files so far."""
    import tensorstore as ts

    (metric,) = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(each["value"] for each in metric["values"])


def test_a_part_of_a_leaf_is_read_in_its_own_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_writer, "CHUNK_BYTES", 4096)
    leaf = np.random.default_rng(0).random((256, 256), np.float32)
    tiny.write_orbax(tmp_path / "saved", {("w",): leaf})
    checkpoint, parts = open_checkpoint(tmp_path / "saved"), []
    before = read_bytes()
    for first in range(0, 256, 32):
        parts.append(checkpoint.read("w", (slice(None), slice(first, first + 32))))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), leaf)
    assert read_bytes() - before < 1.1 * leaf.nbytes
