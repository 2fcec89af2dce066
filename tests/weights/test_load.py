"""Loading: every format gives the same leaves; a wrong checkpoint is refused unread; memory is not doubled."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.errors import BadCheckpoint
from jaxserve.layers import quant
from jaxserve.layers.param_spec import Origin, ParamSpec, RowBlocks, Source
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint, convert, load_params
from tests.weights import tiny


def wanted(tensors: dict[str, np.ndarray], dtype=jnp.float32):
    """Leaves and their shapes: matrices of projections are transposed, as models do, everything else is kept."""
    params, abstract = {}, {}
    for name, value in tensors.items():
        is_transposed = "proj" in name and value.ndim == 2
        path = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
        path = (*path, "table") if value.ndim == 2 and not is_transposed else path
        shape = value.shape[::-1] if is_transposed else value.shape
        origin = Origin((Source(name, value.shape, is_transposed=is_transposed),))
        params[path] = ParamSpec(shape, (None,) * value.ndim, (origin,), is_packable=value.ndim == 2)
        abstract[path] = jax.ShapeDtypeStruct(shape, dtype)
    return params, abstract


def tensor_of(param: ParamSpec) -> str:
    return param.origins[0].sources[0].name


def safetensors_in(path, tensors):
    return open_checkpoint(tiny.write_directory(path, tensors))


def gguf_in(path, tensors):
    path.mkdir(exist_ok=True)
    return open_checkpoint(tiny.write_gguf(path / "a.gguf", tensors))


def orbax_in(path, tensors):
    loaded = load_params(safetensors_in(path / "source", tensors), *wanted(tensors))
    return open_checkpoint(tiny.write_orbax(path / "saved", loaded))


REPO = Path(__file__).resolve().parents[2]
FORMATS = [safetensors_in, gguf_in, orbax_in]


@pytest.mark.parametrize("written_in", FORMATS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_format_gives_the_same_leaves(tmp_path, written_in, dtype):
    tensors = tiny.weights(bias=True)
    leaves, abstract = wanted(tensors, dtype)
    loaded = load_params(written_in(tmp_path, tensors), leaves, abstract)
    assert list(loaded) == list(leaves)
    for path, leaf in leaves.items():
        expected = leaf.origins[0].sources[0].read(lambda name, part: tensors[name][part]).astype(dtype)
        assert loaded[path].dtype == dtype
        np.testing.assert_array_equal(np.asarray(loaded[path]), expected)


@pytest.mark.parametrize("written_in", FORMATS)
def test_a_missing_tensor_is_named(tmp_path, written_in):
    tensors = tiny.weights()
    checkpoint = written_in(tmp_path, {name: value for name, value in tensors.items() if "norm" not in name})
    with pytest.raises(BadCheckpoint, match=r"lacks tensor '.*norm.*' \(and 2 more\) that this architecture needs"):
        check_checkpoint(checkpoint, wanted(tensors)[0])


@pytest.mark.parametrize("written_in", FORMATS)
def test_a_surplus_tensor_is_named_unless_ignored(tmp_path, written_in):
    tensors = tiny.weights(tied=False)
    checkpoint = written_in(tmp_path, tensors)
    del tensors["lm_head.weight"]
    with pytest.raises(BadCheckpoint, match=r"has tensor 'lm_head\.weight.*' that this architecture lacks"):
        check_checkpoint(checkpoint, wanted(tensors)[0])
    check_checkpoint(checkpoint, wanted(tensors)[0], ignored=["lm_head.*"])


@pytest.mark.parametrize("written_in", FORMATS)
def test_a_wrong_shape_is_named(tmp_path, written_in):
    tensors = tiny.weights()
    checkpoint = written_in(tmp_path, tensors)
    tensors["model.norm.weight"] = np.zeros(tiny.WIDTH + 1)
    with pytest.raises(BadCheckpoint, match=r"'model\.norm\.weight' has shape \(32,\); the config asks for \(33,\)"):
        check_checkpoint(checkpoint, wanted(tensors)[0])


def test_a_tensor_of_integers_is_refused(tmp_path):
    tensors = tiny.weights() | {"model.norm.weight": np.ones(tiny.WIDTH, np.int32)}
    with pytest.raises(BadCheckpoint, match=r"'model\.norm\.weight' is int32"):
        check_checkpoint(safetensors_in(tmp_path, tensors), wanted(tensors)[0])


def test_rotary_tables_of_old_checkpoints_are_passed_over(tmp_path):
    tensors = tiny.weights()
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    check_checkpoint(safetensors_in(tmp_path, tensors | table), wanted(tensors)[0])


def test_loading_leaves_surplus_tensors_alone(tmp_path):
    checkpoint = safetensors_in(tmp_path, tiny.weights(tied=False))
    assert ("lm_head", "weight", "table") not in load_params(checkpoint, *wanted(tiny.weights()))


def test_a_wrong_checkpoint_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    tensors = tiny.weights()
    checkpoint = safetensors_in(tmp_path, {name: value for name, value in tensors.items() if "norm" not in name})
    monkeypatch.setattr(checkpoint, "read", lambda name, part: pytest.fail("read too early"))
    with pytest.raises(BadCheckpoint):
        load_params(checkpoint, *wanted(tensors))


def test_a_tensor_that_fails_ends_the_load_with_its_own_error(tmp_path, monkeypatch):
    checkpoint = safetensors_in(tmp_path, tiny.weights())

    def refuse(name, part):
        raise BadCheckpoint(f"{name} went away")

    monkeypatch.setattr(checkpoint, "read", refuse)
    with pytest.raises(BadCheckpoint, match="went away"):
        load_params(checkpoint, *wanted(tiny.weights()))


def test_progress_counts_every_byte_once(tmp_path):
    tensors, heard = tiny.weights(), []
    load_params(safetensors_in(tmp_path, tensors), *wanted(tensors), progress=lambda *step: heard.append(step))
    total = sum(value.nbytes for value in tensors.values())
    assert heard[-1] == ("load", total, total)
    assert [done for _, done, _ in heard] == sorted({done for _, done, _ in heard})


def test_a_leaf_goes_where_its_sharding_says(tmp_path):
    tensors = {"model.norm.weight": np.ones(8, np.float32)}
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    leaves, abstract = wanted(tensors)
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for path, leaf in abstract.items()
    }
    loaded = load_params(safetensors_in(tmp_path, tensors), leaves, abstract)
    assert loaded["model", "norm", "weight"].sharding == sharding


def test_loaded_leaves_do_not_change_with_the_file(tmp_path):
    tensors = {"model.norm.weight": np.arange(4096, dtype=np.float32)}
    checkpoint = safetensors_in(tmp_path, tensors)
    (array,) = load_params(checkpoint, *wanted(tensors)).values()
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.seek(-8192, 2)
        file.write(bytes(8192))
    np.testing.assert_array_equal(np.asarray(array), tensors["model.norm.weight"])


@pytest.mark.parametrize("source", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("target", [np.float32, ml_dtypes.bfloat16])
def test_conversion_is_the_usual_one(source, target):
    values = np.random.default_rng(0).standard_normal((150, 70)).astype(source).T
    np.testing.assert_array_equal(convert(values, np.dtype(target)), values.astype(target))


MEMORY = """
import sys, numpy as np, jax
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests.weights.test_load import wanted
def peak_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
checkpoint = open_checkpoint(Path(sys.argv[1]))
tensors = {name: np.broadcast_to(np.float32(0), info.shape) for name, info in checkpoint.tensors.items()}
load_params(checkpoint, *wanted({"w.0": tensors["w.0"]}))
before = peak_mb()
loaded = load_params(checkpoint, *wanted(tensors))
weights_mb = sum(array.nbytes for array in loaded.values()) / 2**20
print(peak_mb() - before, weights_mb)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    tensors = {f"w.{index}": np.full((1024, 1024), index, np.float32) for index in range(32)}
    tiny.write_directory(tmp_path, tensors)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(REPO)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    peak_mb, weights_mb = map(float, done.stdout.split())
    assert weights_mb == 128
    assert peak_mb < weights_mb + 40


def packed_wish(tensors, kind):
    leaves, abstract = wanted(tensors)
    for path, leaf in leaves.items():
        if leaf.is_packable:
            width_out, width_in = leaf.origins[0].sources[0].shape
            abstract[path] = quant.abstract_packed(kind, width_in, width_out)
    return leaves, abstract


@pytest.mark.parametrize("written_in", FORMATS)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_every_format_gives_the_same_packed_leaves(tmp_path, written_in, kind, monkeypatch):
    monkeypatch.setattr("jaxserve.weights.packing.SLAB_VALUES", 600)
    tensors = tiny.weights(bias=True)
    leaves, abstract = packed_wish(tensors, kind)
    loaded = load_params(written_in(tmp_path, tensors), leaves, abstract)
    for path, leaf in leaves.items():
        if len(leaf.shape) < 2:
            np.testing.assert_array_equal(loaded[path], tensors[tensor_of(leaf)])
            continue
        expected = np.zeros(abstract[path].data.shape, np.uint8)
        quant.pack_blocks(quant.quantize(tensors[tensor_of(leaf)], kind), expected)
        np.testing.assert_array_equal(loaded[path].data, expected)


@pytest.mark.parametrize(("kind", "form"), [("int8", Kind.Q8_0), ("int4", Kind.Q4_1)])
def test_blocks_of_the_same_form_are_taken_over_as_they_are(tmp_path, kind, form):
    """Bit for bit: codes, scales and minima say exactly what the file's blocks say."""
    file = tmp_path / "a.gguf"
    checkpoint = open_checkpoint(tiny.write_gguf(file, tiny.weights(), kind=form))
    leaves, abstract = packed_wish(tiny.weights(), kind)
    loaded = load_params(checkpoint, leaves, abstract)
    for path, leaf in leaves.items():
        if len(leaf.shape) < 2:
            continue
        blocks = checkpoint.read_blocks(tensor_of(leaf), kind)
        scale = blocks.scale_OB[..., None].astype(np.float32)
        if kind == "int8":
            value_OBK = (blocks.code_OPK.astype(np.float32) - 128) * scale
        else:
            code_OBK = np.concatenate([blocks.code_OPK & 15, blocks.code_OPK >> 4], axis=-1)
            value_OBK = code_OBK.astype(np.float32) * scale + blocks.minimum_OB[..., None].astype(np.float32)
        np.testing.assert_array_equal(
            value_OBK.reshape(leaf.origins[0].sources[0].shape), checkpoint.read(tensor_of(leaf))
        )
        np.testing.assert_allclose(quant.unpack(loaded[path]).T, checkpoint.read(tensor_of(leaf)), rtol=1e-6, atol=1e-6)


def test_blocks_of_another_form_are_packed_anew(tmp_path):
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.weights(), kind=Kind.Q4_1))
    assert checkpoint.read_blocks("model.embed_tokens.weight", "int8") is None
    leaves, abstract = packed_wish(tiny.weights(), "int8")
    loaded = load_params(checkpoint, leaves, abstract)
    read = checkpoint.read("model.embed_tokens.weight")
    assert (
        np.abs(quant.unpack(loaded["model", "embed_tokens", "weight", "table"]).T - read).max()
        < np.abs(read).max() / 250
    )


def test_a_stack_of_experts_is_read_once_and_packed_expert_by_expert(tmp_path, monkeypatch):
    stack = np.random.default_rng(0).normal(size=(4, 32, 64)).astype(np.float32)  # experts, out, in
    checkpoint = safetensors_in(tmp_path, {"experts": stack})
    param = ParamSpec((4, 64, 32), (None,) * 3, (Origin((Source("experts", stack.shape, None, True),)),), True)
    target = quant.abstract_packed("int8", 64, 32, native=False, num_experts=4)
    read, names = checkpoint.read, []
    monkeypatch.setattr(checkpoint, "read", lambda name, part: names.append(name) or read(name, part))
    loaded = load_params(checkpoint, {("experts",): param}, {("experts",): target})["experts",]
    assert names == ["experts"]
    for expert, matrix in enumerate(stack):
        alone = np.empty(target.data.shape[1:], np.uint8)
        quant.pack_blocks(quant.quantize(matrix, "int8"), alone)
        np.testing.assert_array_equal(loaded.data[expert], alone)


@pytest.mark.parametrize("kind", [None, "int8"])
def test_rows_of_heads_that_lie_between_those_of_others_are_taken_head_by_head(tmp_path, kind):
    heads, size, width = 4, 16, 64
    tensor = np.random.default_rng(0).standard_normal((heads, 3, size, width)).astype(np.float32)
    checkpoint = safetensors_in(tmp_path, {"qkv_proj.weight": tensor.reshape(-1, width)})
    rows = RowBlocks(heads, size, stride=3 * size, start=size)
    source = Source("qkv_proj.weight", (heads * 3 * size, width), rows, is_transposed=True)
    param = ParamSpec((width, heads * size), ("width", "heads"), (Origin((source,)),), is_packable=True)
    expected_IO = tensor[:, 1].reshape(-1, width).T
    part = (slice(8, 40), slice(size + 3, 3 * size - 5))
    np.testing.assert_array_equal(source.read(checkpoint.read, part), expected_IO[part])
    if kind is None:
        target = jax.ShapeDtypeStruct(param.shape, jnp.float32)
        loaded, expected = load_params(checkpoint, {("x",): param}, {("x",): target})["x",], expected_IO
    else:
        target = quant.abstract_packed(kind, width, heads * size)
        loaded = load_params(checkpoint, {("x",): param}, {("x",): target})["x",].data
        expected = np.zeros(loaded.shape, np.uint8)
        quant.pack_blocks(quant.quantize(expected_IO.T, kind), expected)
    np.testing.assert_array_equal(np.asarray(loaded), expected)
