"""Gemma 4's config.json: heads of layers without a window, shared keys, and the defaults of its two classes."""

from fnmatch import fnmatch

from jaxserve.cache.layer_cache import SharedCache
from jaxserve.layers.rope import RopeSpec
from jaxserve.models import registry
from tests.models.test_architectures import SIZES, first, read, windows
from tests.models.tiny import tiny_config


def test_gemma4_as_transformers_saves_it_layer_by_layer():
    config = tiny_config("gemma4")
    assert config.pop("global_head_dim") == 32 and config.pop("num_global_key_value_heads") == 1
    saved = config | {"per_layer_config": {"01": {"head_dim": 32, "num_key_value_heads": 1}}}
    assert read(saved) == read(tiny_config("gemma4"))
    assert {layer.attention.head_dim for layer in read(config | {"per_layer_config": {}}).layers} == {16}


def test_the_last_layers_of_gemma4_e2b_have_no_keys_and_wider_blocks():
    config = tiny_config("gemma4_e2b")
    architecture = registry.find_architecture(config)
    spec = architecture.spec(config)
    caches = architecture.cache(spec)
    assert caches[2:] == (SharedCache(layer=0), SharedCache(layer=1))
    assert [layer.mlp.hidden for layer in spec.layers] == [96, 96, 192, 192]
    in_files = [f"model.layers.{layer}.self_attn.{name}.weight" for layer in (1, 2) for name in ("k_norm", "v_proj")]
    ignored = architecture.ignored_tensors(spec)  # published files have keys of such layers all the same
    assert [any(fnmatch(name, pattern) for pattern in ignored) for name in in_files] == [False, False, True, True]


def test_gemma4_has_defaults_of_its_own():
    sizes = {key: value for key, value in SIZES.items() if key not in ("hidden_act", "max_position_embeddings")}
    spec = read({"architectures": ["Gemma4UnifiedForCausalLM"]} | sizes | {"num_hidden_layers": 8})
    assert windows(spec) == (1024,) * 5 + (None, 1024, None)
    full = spec.layers[-1].attention
    assert (first(spec).head_dim, full.head_dim, full.num_kv_heads) == (256, 512, 4)
    assert (first(spec).rope, full.rope) == (RopeSpec(1e4), RopeSpec(1e6, turning_pairs=64))
    assert (spec.max_position_embeddings, spec.tie_embeddings, spec.logits_softcap) == (262_144, True, None)
