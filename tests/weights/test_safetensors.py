"""Safetensors: what was written is read back; whatever else the file says is refused by name."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.safetensors import read_file
from tests.weights import tiny


def test_every_tensor_of_a_directory_is_read_back_without_a_copy(tmp_path):
    written = tiny.weights()
    checkpoint = open_checkpoint(tiny.write_directory(tmp_path, written))
    assert checkpoint.config["hidden_size"] == tiny.WIDTH
    assert set(checkpoint.tensors) == set(written)
    for name, value in written.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)
        assert not checkpoint.read(name).flags.owndata


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int64])
def test_every_type_comes_back_as_itself(tmp_path, dtype):
    value = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    save_file({"a": value}, tmp_path / "a.safetensors")
    stored = read_file(tmp_path / "a.safetensors")["a"]
    read = stored.file.view(stored.offset, stored.info.shape, stored.info.dtype)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, value)


def test_pages_given_back_are_read_again_when_asked_for(tmp_path):
    written = {"a": np.arange(100_000, dtype=np.float32), "b": np.ones(3, np.float32)}
    checkpoint = open_checkpoint(tiny.write_directory(tmp_path, written))
    first = checkpoint.read("a")
    checkpoint.release("a")
    checkpoint.release("b")
    np.testing.assert_array_equal(first, written["a"])


def sharded(path, weight_map: dict[str, str]):
    written = tiny.weights()
    names = sorted(written)
    tiny.write_directory(path, {name: written[name] for name in names[:3]})
    (path / "model.safetensors").rename(path / "model-1.safetensors")
    save_file({name: written[name] for name in names[3:]}, path / "model-2.safetensors")
    whole = {name: f"model-{1 if name in names[:3] else 2}.safetensors" for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": whole | weight_map}))
    return written


def test_several_files_are_one_model(tmp_path):
    written = sharded(tmp_path, {})
    checkpoint = open_checkpoint(tmp_path)
    for name, value in written.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "model-1.bin", ""])
def test_an_index_may_not_point_outside_its_directory(tmp_path, file):
    sharded(tmp_path, {"model.norm.weight": file})
    with pytest.raises(BadCheckpoint, match=r"'model\.norm\.weight' is not in a \.safetensors file of the directory"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_the_index_promises_must_be_there(tmp_path):
    sharded(tmp_path, {"model.ghost.weight": "model-1.safetensors"})
    with pytest.raises(BadCheckpoint, match=r"'model\.ghost\.weight' is not in model-1\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_file_that_the_index_names_must_be_there(tmp_path):
    sharded(tmp_path, {"model.norm.weight": "model-9.safetensors"})
    with pytest.raises(BadCheckpoint, match=r"model-9\.safetensors is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "model.safetensors"])
def test_a_stale_index_beside_a_whole_file_is_passed_over_with_a_warning(tmp_path, file, caplog):
    written = tiny.weights()
    tiny.write_directory(tmp_path, written)
    stale = {name: file for name in [*written, "model.ghost.weight"]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": stale}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == written.keys()
    assert "model.safetensors.index.json" in caplog.text and "passed over" in caplog.text


def test_an_index_whose_files_are_there_wins_over_a_whole_file(tmp_path, caplog):
    written = sharded(tmp_path, {})
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).tensors.keys() == written.keys()
    assert not caplog.text


def write_raw(path, entries, data: bytes = bytes(16), length: int | None = None):
    head = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)
    return path


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a": entry(shape=(2, 3))}, "has shape"),
        ({"a": entry(offsets=(0, 400))}, "past the end"),
        ({"a": entry(offsets=(16, 0))}, "no valid offsets"),
        ({"a": entry(offsets=(-16, 0))}, "no valid offsets"),
        ({"a": entry(shape=(2, True))}, "no valid shape"),
        ({"a": entry(shape=(1 << 70, 0))}, "no valid shape"),
        ({"a": entry(shape=[1] * 99)}, "no valid shape"),
        ({"a": entry(shape=(1 << 61, 1 << 61, 0), offsets=(0, 0))}, "no valid shape"),
        ({"a": entry(dtype="F4")}, "no type that we know"),
        ({"a": 3}, "no type that we know"),
        ({"a": entry(shape=(2, 1), offsets=(0, 8)), "b": entry(shape=(3,), offsets=(4, 16))}, "overlaps"),
        ({"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(2,), offsets=(8, 16))}, "hole"),
        ({"a": entry(shape=(2,), offsets=(0, 8))}, "8 bytes that belong to no tensor"),
        (b"[]", "not a JSON object"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_head_that_lies_is_refused_with_the_file_and_the_reason(tmp_path, entries, reason):
    file = write_raw(tmp_path / "evil.safetensors", entries)
    with pytest.raises(BadCheckpoint, match=r"evil\.safetensors") as caught:
        read_file(file)
    assert reason in str(caught.value)


@pytest.mark.parametrize("length", [1 << 63, (100 << 20) + 1, 1000])
def test_a_head_longer_than_the_file_or_the_limit_is_refused(tmp_path, length):
    with pytest.raises(BadCheckpoint, match="claims a head of"):
        read_file(write_raw(tmp_path / "long.safetensors", {}, length=length))


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_too_short_for_a_head_is_refused(tmp_path, content):
    (tmp_path / "short.safetensors").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"short\.safetensors"):
        read_file(tmp_path / "short.safetensors")


VALID = save({"first": np.arange(6, dtype=np.float32), "second": np.ones((2, 2), np.float16)}, {"format": "pt"})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(VALID) - 1), patch=st.binary(min_size=1, max_size=12), cut=st.integers(0, len(VALID)))
def test_a_damaged_file_is_read_or_refused_but_never_anything_else(tmp_path, at, patch, cut):
    damaged = (VALID[:at] + patch + VALID[at + len(patch) :])[: max(cut, at)]
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    try:
        for stored in read_file(tmp_path / "damaged.safetensors").values():
            stored.file.view(stored.offset, stored.info.shape, stored.info.dtype).tobytes()
    except BadCheckpoint as error:
        assert "damaged.safetensors" in str(error)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1'])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text):
    tiny.write_directory(tmp_path, tiny.weights())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("pytorch_model.bin", "pickled"), ("readme.txt", "holds no")])
def test_a_directory_without_readable_weights_is_refused(tmp_path, name, reason):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadCheckpoint, match=reason):
        open_checkpoint(tmp_path)
