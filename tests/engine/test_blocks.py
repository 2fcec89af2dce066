"""What a .gguf file holds in blocks stays so on a CPU, and the model answers as if it were unpacked."""

from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve import conversion
from jaxserve.config import EngineConfig
from jaxserve.engine.weight_form import WeightForm, choose_weight_form, describe_weight_form
from jaxserve.errors import BadConfig
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.quant import PackedWeight, unpack_data
from jaxserve.models import registry
from jaxserve.models.partition import check_partition
from jaxserve.native import library
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.ranks import Ranks
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.gguf_blocks import BLOCK_TYPES
from jaxserve.weights.load import load_params
from jaxserve.weights.quantized import describe_packing
from tests.engine.test_weight_form import Device
from tests.models.paged import Paged
from tests.models.tiny import random_weights, tiny_config
from tests.weights import gguf_writer
from tests.weights.block_rows import random_rows, read_rows

pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 64}
LLAMA = tiny_config("llama") | SIZES
MOE = tiny_config("qwen3_moe") | SIZES | {"num_experts": 3, "moe_intermediate_size": 256, "mlp_only_layers": []}
MIXED: dict[str, tuple[PackedKind, tuple[int, ...]]] = {  # as in files of the type Q4_K_M, and more
    "blk.0.attn_q.weight": ("q4_k", (256, 256)),
    "blk.0.attn_k.weight": ("q5_0", (128, 256)),
    "blk.0.attn_v.weight": ("q6_k", (128, 256)),
    "blk.0.attn_output.weight": ("iq4_xs", (256, 256)),
}
DENSE: dict[str, tuple[PackedKind, tuple[int, ...]]] = {
    "token_embd.weight": ("q6_k", (272, 256)),
    **MIXED,
    "blk.0.ffn_gate.weight": ("q4_k", (512, 256)),
    "blk.0.ffn_up.weight": ("int8", (512, 256)),
    "blk.0.ffn_down.weight": ("q5_k", (256, 512)),
}
SPARSE: dict[str, tuple[PackedKind, tuple[int, ...]]] = {
    "output.weight": ("q6_k", (272, 256)),
    **MIXED,
    "blk.0.ffn_gate_exps.weight": ("q4_k", (3, 256, 256)),
    "blk.0.ffn_up_exps.weight": ("q2_k", (3, 256, 256)),
    "blk.0.ffn_down_exps.weight": ("q3_k", (3, 256, 256)),
}


def write(path: Path, config: dict[str, Any], kinds: dict[str, tuple[PackedKind, tuple[int, ...]]]) -> Path:
    blocks = {}
    for seed, (name, (kind, shape)) in enumerate(kinds.items()):
        *front, width_in = shape
        spread = read_rows(kind, random_rows(kind, 16, 256)).std()  # values as large as a model's
        rows = random_rows(kind, int(np.prod(front)), width_in, seed=seed, scale=0.02 * 0.06 / spread)
        blocks[name] = BLOCK_TYPES[kind], rows.reshape(*front, -1)
    return gguf_writer.write(path / "m.gguf", config, random_weights(config, seed=3), blocks=blocks)


class Model:
    """A file, and what is made of it with some settings."""

    def __init__(
        self, path: Path, num_devices: int = 1, platform: str = "cpu", dtype: Any = np.float32, **settings: Any
    ) -> None:
        self.checkpoint = open_checkpoint(path)
        architecture = registry.find_architecture(self.checkpoint.config)
        self.spec = architecture.spec(self.checkpoint.config)
        self.params = architecture.params(self.spec)
        config, placement = EngineConfig(model=str(path), **settings), Placement((Device(platform),) * num_devices)
        self.form = choose_weight_form(config, self.checkpoint, self.params, self.spec, placement, np.dtype(dtype))

    def load(self) -> dict:
        form = self.form
        shapes = registry.abstract_params(self.params, np.float32, form.quantization, form.kinds, form.scaled)
        return load_params(self.checkpoint, self.params, shapes)


@pytest.mark.parametrize(("config", "kinds"), [(LLAMA, DENSE), (MOE, SPARSE)])
def test_the_model_answers_as_if_it_were_unpacked(tmp_path, config, kinds):
    path = write(tmp_path, config, kinds)
    packed, plain = Model(path), Model(path, quantization="none")
    weights, values = packed.load(), plain.load()
    leaves = {leaf: weight for leaf, weight in weights.items() if isinstance(weight, PackedWeight)}
    assert sorted(weight.kind for weight in leaves.values()) == sorted(kind for kind, _ in kinds.values())
    for leaf, weight in leaves.items():
        stacked = np.asarray(weight.data).reshape(-1, *weight.data.shape[-3:])
        unpacked = np.stack([unpack_data(data, weight.kind)[: weight.width_out] for data in stacked])
        expected = np.asarray(values[leaf])
        np.testing.assert_array_equal(
            unpacked, expected[None] if leaf[-1] == "table" else expected.swapaxes(-1, -2).reshape(unpacked.shape)
        )
    tokens = np.random.default_rng(1).integers(0, 272, 40).tolist()
    logits, expected = (
        next(iter(Paged(packed.spec, leaves, backend="cpu").feed(tokens))) for leaves in (weights, values)
    )
    assert np.square(logits - expected).mean() < 0.05**2 * np.square(expected).mean()


def test_blocks_that_are_asked_for_are_those_that_stay_by_themselves(tmp_path):
    path = write(tmp_path, LLAMA, DENSE)
    assert Model(path, quantization="blocks").form == Model(path).form


OBSTACLES = {
    "bfloat16": ({"dtype": jnp.bfloat16}, "products of packed weights are computed in float32"),
    "two devices": ({"num_devices": 2}, "2 devices would cut packed blocks"),
    "a gpu": ({"platform": "gpu", "dtype": jnp.bfloat16}, ""),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_blocks_that_cannot_be_multiplied_are_unpacked_unless_they_are_asked_for(tmp_path, case):
    settings, reason = OBSTACLES[case]
    path = write(tmp_path, LLAMA, DENSE)
    assert Model(path, **settings).form == WeightForm("none", reason=reason)
    with pytest.raises(BadConfig, match="blocks"):
        Model(path, **settings, quantization="blocks")


def test_without_a_compiler_blocks_are_unpacked_unless_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "is_usable", lambda: False)
    path = write(tmp_path, LLAMA, DENSE)
    assert Model(path).form.reason == "products of packed weights are slow for want of a C compiler"
    assert Model(path, quantization="blocks").form.quantization == "blocks"


def test_a_file_of_numbers_is_plain_without_a_word(tmp_path):
    assert Model(write(tmp_path, LLAMA, {})).form == WeightForm("none")


def test_types_without_products_are_named(tmp_path):
    values, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.TQ1_0]
    raw = np.zeros((512, 256 // values * num_bytes), np.uint8)
    blocks = {"blk.0.ffn_up.weight": (gguf.GGMLQuantizationType.TQ1_0, raw)}
    path = gguf_writer.write(tmp_path / "m.gguf", LLAMA, random_weights(LLAMA, seed=3), blocks=blocks)
    assert describe_weight_form(Model(path).form) == "not packed (TQ1_0 have no products)"


def test_the_start_says_what_stays_and_what_does_not(tmp_path):
    lacking = {name: each for name, each in DENSE.items() if name != "blk.0.ffn_up.weight"}
    chosen = Model(write(tmp_path, LLAMA, lacking), quantization="blocks")
    assert describe_packing(chosen.checkpoint) == {
        "packed in the file": "Q6_K in 2 tensors, Q4_K in 2 tensors, Q5_0 in 1 tensors, IQ4_XS in 1 tensors, "
        "Q5_K in 1 tensors"
    }
    text = describe_weight_form(chosen.form)
    assert text.startswith("q6_k in 2, q4_k in 1, q5_0 in 1, iq4_xs in 1 matrices (the blocks of the file, of those in")
    assert "3 are unpacked; activations are rounded to int8), native products" in text


@pytest.fixture
def converted(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A file, and the directory that convert writes for it."""
    monkeypatch.setattr(conversion, "write_tokenizer", lambda model, directory: None)  # the file has none
    path = write(tmp_path, LLAMA, DENSE)
    return path, conversion.convert_model(str(path), tmp_path / "to", quantization="blocks").path


@pytest.mark.parametrize("settings", [{"quantization": "blocks"}, {}])
def test_converted_is_served_as_its_file_with_the_same_flags_and_without(converted, settings):
    path, directory = converted
    model = Model(directory, **settings)
    weights, expected = model.load(), Model(path, quantization="blocks").load()
    assert model.form.quantization == "blocks"
    assert describe_weight_form(model.form).startswith("q6_k in 2, q4_k in 2, q5_0 in 1, iq4_xs in 1, int8 in 1")
    assert jax.tree.structure(weights) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


def test_a_directory_may_be_called_as_a_file_is(converted):
    path, directory = converted
    plain = conversion.convert_model(str(path), directory.with_name("plain.gguf"), quantization="none").path
    assert describe_packing(Model(plain).checkpoint) == {}
    with pytest.raises(BadConfig, match=r"plain\.gguf has none"):
        Model(plain, quantization="blocks")


def test_convert_keeps_blocks_by_itself_unless_activations_are_narrower(converted):
    path, directory = converted
    kept = conversion.convert_model(str(path), directory.with_name("kept"))
    assert kept.num_packed == len(DENSE)
    jax.tree.map(np.testing.assert_array_equal, Model(kept.path).load(), Model(directory).load())
    assert conversion.convert_model(str(path), directory.with_name("narrow"), dtype="bfloat16").num_packed == 0


def test_ranks_that_would_cut_a_converted_block_have_it_unpacked_unless_blocks_are_asked_for(converted):
    _, directory = converted
    form = Model(directory, num_devices=2).form
    assert (form.quantization, form.reason) == ("none", "2 devices would cut packed blocks")
    with pytest.raises(BadConfig, match="whole blocks of 256"):
        Model(directory, num_devices=2, quantization="blocks")


def test_one_kind_is_named_too():
    text = describe_weight_form(WeightForm("blocks", {("layers", 0): "q4_k"}))
    assert text.startswith("q4_k in 1 matrices, ")


def test_what_has_no_blocks_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"m\.gguf has none; leave it out, or try int8"):
        Model(write(tmp_path, LLAMA, {}), quantization="blocks")


def test_ranks_that_would_cut_a_block_are_refused(tmp_path):
    spec = Model(write(tmp_path, LLAMA, DENSE)).spec
    check_partition(spec, Ranks(size=2), "int4")
    with pytest.raises(BadConfig, match="whole blocks of 256, which quantization='blocks' packs; try 1"):
        check_partition(spec, Ranks(size=2), "blocks", 256)
