"""GGUF: names, layouts, block types and config come back as Hugging Face has them; hostile heads are refused."""

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve.errors import BadCheckpoint, UnknownArchitecture
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.gguf import dequantize_blocks, undo_rotary_permutation
from jaxserve.weights.gguf_header import read_header
from jaxserve.weights.gguf_rope import LLAMA3_ROPE_SCALING, llama3_factors
from tests.weights import tiny


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_comes_back_under_its_own_name_and_layout(tmp_path, arch, tied):
    written = tiny.weights(layers=2, bias=True, tied=tied)
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", written, arch=arch, layers=2))
    assert set(checkpoint.tensors) == set(written)
    for name, value in written.items():
        assert checkpoint.tensors[name].shape == value.shape
        np.testing.assert_array_equal(checkpoint.read(name), value)


def test_the_config_is_that_of_the_original(tmp_path):
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights()))
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    assert checkpoint.config == tiny.config() | ids | {"attention_bias": False, "mlp_bias": False}
    assert checkpoint.generation_config == ids


def test_untied_heads_biases_and_windows_show_in_the_config(tmp_path):
    file = tiny.write_gguf(
        tmp_path / "a.gguf",
        tiny.weights(bias=True, tied=False),
        metadata={"llama.attention.sliding_window": 64, "llama.attention.key_length": tiny.HEAD_DIM},
    )
    config = open_checkpoint(file).config
    assert config["architectures"] == ["MistralForCausalLM"]
    assert (config["sliding_window"], config["attention_bias"], config["tie_word_embeddings"]) == (64, True, False)


def test_every_end_token_and_sampling_default_is_kept(tmp_path):
    extra = {"tokenizer.ggml.eot_token_id": 7, "general.sampling.temp": 0.7, "general.sampling.top_k": 20}
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), metadata=extra))
    assert checkpoint.generation_config == {"bos_token_id": 1, "eos_token_id": [2, 7], "temperature": 0.7, "top_k": 20}


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_recovered_from_its_table(tmp_path, factor):
    table = llama3_factors(500000.0, tiny.HEAD_DIM, LLAMA3_ROPE_SCALING | {"factor": factor})
    file = tiny.write_gguf(tmp_path / "a.gguf", tiny.weights() | {"rope_freqs.weight": table}, theta=500000.0)
    checkpoint = open_checkpoint(file)
    assert checkpoint.config["rope_scaling"] == {"rope_type": "llama3", "factor": factor, **LLAMA3_ROPE_SCALING}
    assert "rope_freqs.weight" not in checkpoint.tensors


@pytest.mark.parametrize("table", [[1, 3, 6, 9], [1, 1, 1, np.inf], [np.nan] * 4, [1, 8]])
def test_a_rope_table_of_unknown_origin_is_refused(tmp_path, table):
    table = np.array(table, np.float32)
    with pytest.raises(BadCheckpoint, match=r"rope_freqs\.weight"):
        open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights() | {"rope_freqs.weight": table}))


def test_linear_and_yarn_scaling_are_carried_over(tmp_path):
    keys = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    keys["llama.rope.scaling.original_context_length"] = 32
    config = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), metadata=keys)).config
    assert config["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", "longrope"),
        ("llama.rope.dimension_count", 4),
        ("llama.expert_count", 8),
        ("split.count", 3),
        ("llama.attention.key_length", "eight"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(tmp_path, key, value):
    file = tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), metadata={key: value})
    with pytest.raises(BadCheckpoint, match=r"a\.gguf"):
        open_checkpoint(file)


def test_an_unknown_architecture_is_refused_by_name(tmp_path):
    with pytest.raises(UnknownArchitecture, match="'mamba'"):
        open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), arch="mamba"))


def rotated_half_split(rows_ND: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotation as Hugging Face writes it: component i turns with component i + D/2."""
    first, second = np.split(rows_ND, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotated_interleaved(rows_ND: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotation as llama.cpp does it for Llama: component 2i turns with component 2i + 1."""
    turned = (rows_ND[..., 0::2] + 1j * rows_ND[..., 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(rows_ND.shape)


def test_attention_scores_are_those_of_the_interleaved_file():
    rng = np.random.default_rng(3)
    stored = {heads: rng.standard_normal((heads * 8, 32)) for heads in (4, 2)}  # rows of query and key in the file
    x, y, angles = rng.standard_normal(32), rng.standard_normal(32), 10000.0 ** -(np.arange(4) / 4)
    query, key = ((w @ v).reshape(h, 8) for (h, w), v in zip(stored.items(), (x, y), strict=True))
    theirs = rotated_interleaved(query, 5 * angles) @ rotated_interleaved(key, 2 * angles).T
    query, key = (
        (undo_rotary_permutation(w, h) @ v).reshape(h, 8) for (h, w), v in zip(stored.items(), (x, y), strict=True)
    )
    ours = rotated_half_split(query, 5 * angles) @ rotated_half_split(key, 2 * angles).T
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


# Largest error of normal noise relative to its largest value: a step of 2 / 2**bits for the symmetric kinds with an
# odd one out at the top, half a step for the others.
ERROR = {
    Kind.F32: 0.0,
    Kind.F16: 1e-3,
    Kind.BF16: 5e-3,
    Kind.Q8_0: 5e-3,
    Kind.Q5_0: 0.065,
    Kind.Q5_1: 0.04,
    Kind.Q4_0: 0.13,
    Kind.Q4_1: 0.08,
    Kind.MXFP4: 0.3,
    Kind.TQ1_0: 0.51,
    Kind.TQ2_0: 0.51,
}


def quantisable() -> list[Kind]:
    """Every type that the gguf package can pack."""
    found = []
    for kind, (block, _) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.quantize(np.zeros((1, block), np.float32), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", quantisable(), ids=lambda kind: kind.name)
def test_packing_and_unpacking_stays_within_the_types_error(tmp_path, kind):
    value = np.random.default_rng(1).standard_normal((6, 512)).astype(np.float32)
    packed = gguf.quantize(value, kind)
    read = dequantize_blocks(packed.view(np.uint8).reshape(6, -1, gguf.GGML_QUANT_SIZES[kind][1]), kind)
    assert read.shape == value.shape
    assert np.abs(read.astype(np.float32) - value).max() <= ERROR[kind] * np.abs(value).max()


def unpackable() -> list[Kind]:
    """Every packed type that the gguf package can unpack."""
    found = []
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", unpackable(), ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_slabs_give_the_values_of_one_whole_call(kind, monkeypatch):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    monkeypatch.setattr("jaxserve.weights.gguf.SLAB_VALUES", 3 * block)
    raw = np.random.default_rng(2).integers(0, 256, (5, 2 * size), dtype=np.uint8)
    ours = dequantize_blocks(raw.reshape(5, 2, size), kind)
    np.testing.assert_array_equal(ours.astype(np.float32), gguf.dequantize(raw, kind).reshape(5, 2 * block))


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.F16])
def test_packed_rows_of_query_and_key_are_put_in_order_too(tmp_path, kind):
    written = tiny.weights()
    name = "model.layers.0.self_attn.q_proj.weight"
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", written, kind=kind))
    expected = gguf.dequantize(gguf.quantize(written[name], kind), kind)
    np.testing.assert_array_equal(checkpoint.read(name).astype(np.float32), expected)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1])
def test_only_blocks_of_the_part_are_unpacked(tmp_path, kind, monkeypatch):
    name, columns = "model.layers.0.self_attn.q_proj.weight", slice(0, 20)
    weights = tiny.weights() | {name: np.random.default_rng(0).standard_normal((32, 96), np.float32)}
    checkpoint, sizes = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", weights, kind=kind)), []
    whole, dequantize = checkpoint.read(name), gguf.dequantize
    monkeypatch.setattr(
        "jaxserve.weights.gguf.dequantize", lambda raw, kind: sizes.append(raw.size) or dequantize(raw, kind)
    )
    for rows in (slice(0, 8), slice(3, 30), slice(1, 32, 2)):
        np.testing.assert_array_equal(checkpoint.read(name, (rows, columns)), whole[rows, columns])
        assert sizes.pop() == len(range(32)[rows]) * gguf.GGML_QUANT_SIZES[kind][1]


def test_the_head_says_what_the_gguf_package_says(tmp_path):
    file = tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), metadata={"some.list": ["a", "é", ""], "n": [1, 2]})
    header, reader = read_header(file), gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == fields
    assert {t.name: t.data_offset for t in reader.tensors} == {t.name: t.offset for t in header.tensors.values()}


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def head(num_tensors: int = 0, num_keys: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + body + bytes(64)


HUGE = 1 << 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"GGML" + bytes(60), "not a GGUF file"),
        (b"GGUF", "past the end"),
        (head(version=1), "version 1"),
        (head(version=3 << 24), "big-endian"),
        (head(num_tensors=HUGE), "tensors, more than"),
        (head(num_keys=HUGE), "metadata keys, more than"),
        (head(0, 1, struct.pack("<Q", HUGE) + b"abc"), f"name of {HUGE} bytes"),
        (head(0, 1, string("k") + struct.pack("<IQ", 8, HUGE)), "past the end"),
        (head(0, 1, string("k") + struct.pack("<IIQ", 9, 4, HUGE)), "values, more than"),
        (head(0, 1, string("k") + struct.pack("<IIQ", 9, 8, HUGE)), "values, more than"),
        (head(0, 1, string("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3 * 2), "nests arrays"),
        (head(0, 1, string("k") + struct.pack("<I", 99)), "value type 99"),
        (head(0, 1, string("k" * 9000) + struct.pack("<I", 99)), "value type 99"),
        (head(1, 0, string("t" * 9000)), "name of 9000 bytes"),
        (head(0, 1, struct.pack("<Q", 2) + b"\xff\xff" + struct.pack("<IB", 0, 1)), "UTF-8"),
        (head(0, 2, (string("k") + struct.pack("<IB", 0, 1)) * 2), "appears twice"),
        (head(0, 1, string("general.alignment") + struct.pack("<II", 4, 0)), "general.alignment is 0"),
        (head(0, 1, string("general.alignment") + struct.pack("<II", 4, 48)), "general.alignment is 48"),
        (head(1, 0, string("t") + struct.pack("<I", 1 << 31)), "axes"),
        (head(1, 0, string("t") + struct.pack("<IQIQ", 1, 4, 0, 7)), "no multiple of the alignment"),
        (head(2, 0, (string("t") + struct.pack("<IQIQ", 1, 4, 0, 0)) * 2), "appears twice"),
    ],
)
def test_a_head_that_lies_is_refused_with_the_file_and_the_reason(tmp_path, content, reason):
    (tmp_path / "evil.gguf").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"evil\.gguf") as caught:
        read_header(tmp_path / "evil.gguf")
    assert reason in str(caught.value) and len(str(caught.value)) < 1000


def patched(file, tensor: str, dims: list[int] | None = None, kind: int | None = None, offset: int | None = None):
    """Rewrites one tensor's entry in place."""
    data = bytearray(file.read_bytes())
    at = data.index(string(tensor)) + len(string(tensor))
    (num_dims,) = struct.unpack_from("<I", data, at)
    for axis, size in enumerate(dims or []):
        struct.pack_into("<Q", data, at + 4 + 8 * axis, size)
    if kind is not None:
        struct.pack_into("<I", data, at + 4 + 8 * num_dims, kind)
    if offset is not None:
        struct.pack_into("<Q", data, at + 8 + 8 * num_dims, offset)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dims": [HUGE, HUGE]}, "impossible shape"),
        ({"dims": [HUGE, 0]}, "impossible shape"),
        ({"dims": [1 << 20, 1 << 20]}, "past the end"),
        ({"offset": 1 << 40}, "past the end"),
        ({"offset": 32}, "overlap"),
        ({"kind": 77}, "block type 77"),
        ({"kind": 4}, "block type 4"),
        ({"kind": int(Kind.Q8_K)}, "block type 15"),
        ({"kind": int(Kind.Q4_K)}, "no multiple of 256"),
    ],
)
def test_a_tensor_that_cannot_be_there_is_refused_by_name(tmp_path, change, reason):
    file = tiny.write_gguf(tmp_path / "evil.gguf", tiny.weights())
    with pytest.raises(BadCheckpoint, match=r"blk\.0\.attn_q\.weight|token_embd|blk\.0") as caught:
        open_checkpoint(patched(file, "blk.0.attn_q.weight", **change))
    assert reason in str(caught.value)


def test_a_cut_file_is_refused(tmp_path):
    file = tiny.write_gguf(tmp_path / "cut.gguf", tiny.weights())
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadCheckpoint, match="past the end of the file; is it cut short"):
        open_checkpoint(file)


def test_query_rows_that_do_not_divide_into_heads_are_refused(tmp_path):
    file = tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(bias=True))
    with pytest.raises(BadCheckpoint, match=r"blk\.0\.attn_q\.bias.*has no 4 heads"):
        open_checkpoint(patched(file, "blk.0.attn_q.bias", dims=[28]))


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("valid") / "a.gguf"
    return tiny.write_gguf(file, tiny.weights(), kind=Kind.Q8_0, metadata={"some.list": ["a", "b"]})


HEAD_BYTES = 2600  # damage behind the head only changes values


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, HEAD_BYTES),
    patch=st.binary(min_size=1, max_size=8) | st.sampled_from([bytes(8), b"\xff" * 8]),
    cut=st.none() | st.integers(0, 2 * HEAD_BYTES),
)
def test_a_damaged_file_is_read_or_refused_but_never_anything_else(tmp_path, valid, at, patch, cut):
    whole = valid.read_bytes()
    (tmp_path / "damaged.gguf").write_bytes((whole[:at] + patch + whole[at + len(patch) :])[:cut])
    try:
        checkpoint = open_checkpoint(tmp_path / "damaged.gguf")
        for name, info in checkpoint.tensors.items():
            assert checkpoint.read(name).shape == info.shape
    except (BadCheckpoint, UnknownArchitecture) as error:
        assert "damaged.gguf" in str(error)


def test_what_is_no_ordinary_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(BadCheckpoint, match=r"pipe\.gguf is no ordinary file"):
        read_header(tmp_path / "pipe.gguf")
