"""The text part of multimodal checkpoints that transformers wrote, in files and in memory, held to its own logits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from jaxserve.errors import BadCheckpoint, UnknownArchitecture
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint, load_params
from tests.models.paged import Paged
from tests.models.tiny import tiny_config

TOKENS = np.random.default_rng(1).integers(0, 272, 100).tolist()
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}


def text(architecture, **changes):
    return {key: value for key, value in tiny_config(architecture).items() if key != "architectures"} | changes


def gemma3(text_config, **outer):
    vision = VISION | {"model_type": "siglip_vision_model"}
    config = Gemma3Config(text_config=text_config, vision_config=vision, mm_tokens_per_image=4, **outer)
    return Gemma3ForConditionalGeneration(config)


def gemma4(text_config):
    vision = {key: value for key, value in VISION.items() if key not in ("image_size", "patch_size")}
    vision |= {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 4, "position_embedding_size": 16}
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text_config, vision_config=vision))


def gemma4_unified(text_config):
    vision = {"patch_size": 4, "pooling_kernel_size": 1, "mm_posemb_size": 16}
    vision |= {"mm_embed_dim": 32, "output_proj_dims": 32}
    return Gemma4UnifiedForConditionalGeneration(Gemma4UnifiedConfig(text_config=text_config, vision_config=vision))


def llama4(text_config):
    vision = VISION | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    return Llama4ForConditionalGeneration(Llama4Config(text_config=text_config, vision_config=vision))


def mistral3(text_config, **outer):
    vision = VISION | {"model_type": "pixtral", "head_dim": 16}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text_config, vision_config=vision, **outer))


def qwen3_5_moe(text_config, **outer):
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"patch_size": 4, "num_position_embeddings": 16}
    return Qwen3_5MoeForConditionalGeneration(Qwen3_5MoeConfig(text_config=text_config, vision_config=vision, **outer))


def mixed(model, seed=3):
    """The model with weights spread widely enough that every norm and bias matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3))
    return model.eval()


MODELS = {
    "gemma3": lambda: gemma3(text("gemma3")),
    "gemma3, untied": lambda: gemma3(text("gemma3", tie_word_embeddings=False), tie_word_embeddings=False),
    "gemma 4, experts": lambda: gemma4(text("gemma4")),
    "gemma 4 e2b": lambda: gemma4(text("gemma4_e2b")),
    "gemma 4 unified": lambda: gemma4_unified(text("gemma4", model_type="gemma4_unified_text", enable_moe_block=False)),
    "mistral small 3.1": lambda: mistral3(text("mistral", sliding_window=None), tie_word_embeddings=False),
    "mistral3 that ties and says so outside": lambda: mistral3(text("mistral"), tie_word_embeddings=True),
    "llama 4": lambda: llama4(text("llama4")),
    "qwen 3.5 moe": lambda: qwen3_5_moe(text("qwen3_5_moe")),
    "ministral 3": lambda: mistral3(text("ministral3", tie_word_embeddings=True), tie_word_embeddings=True),
}


def in_files(model, directory):
    model.save_pretrained(directory)
    return directory


def in_memory(model, directory):
    """The names that the modules have, which are not those of files."""
    model.save_pretrained(directory)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    save_file({n: v for n, v in tensors.items() if not (tied and "lm_head" in n)}, directory / "model.safetensors")
    return directory


def load(directory):
    checkpoint = open_checkpoint(directory)
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    ignored = architecture.ignored_tensors(spec)
    return spec, load_params(checkpoint, architecture.params(spec), shapes, ignored=ignored)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("written", [in_files, in_memory])
def test_the_text_part_matches_transformers(name, written, tmp_path):
    model = mixed(MODELS[name]())
    with torch.inference_mode():
        whole = not isinstance(model, Llama4ForConditionalGeneration)  # which fails without an image
        expected = (model if whole else model.language_model)(torch.tensor([TOKENS])).logits[0].numpy()
    spec, leaves = load(written(model, tmp_path))
    (logits,) = Paged(spec, leaves).feed(TOKENS)
    assert np.abs(logits - expected).max() < 1e-4


def gemma3_4b() -> dict:
    """config.json of google/gemma-3-4b-it, which leaves out what transformers' classes say; sizes of vision cut."""
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    }


def test_a_request_of_llama_4_is_as_long_as_one_chunk():
    config = text("llama4", max_position_embeddings=4096)
    limits = {128: 128, 8192: 4096, None: 4096}
    for chunk, limit in limits.items():
        assert read(config | {"attention_chunk_size": chunk}).max_position_embeddings == limit


def read(config):
    return registry.find_architecture(config).spec(config)


def test_what_a_published_config_leaves_out_is_what_transformers_says():
    spec, theirs = read(gemma3_4b()), Gemma3Config(**gemma3_4b()).text_config
    first, sixth = spec.layers[0].attention, spec.layers[5].attention
    assert spec.architecture_name == "Gemma3ForCausalLM, the text part of Gemma3ForConditionalGeneration"
    assert (spec.width, spec.num_layers, spec.vocab_size) == (2560, 34, theirs.vocab_size)
    assert (first.num_heads, first.num_kv_heads, first.head_dim) == (theirs.num_attention_heads, 4, 256)
    assert (first.window, sixth.window) == (1024, None)
    assert spec.tie_embeddings
    assert spec.max_position_embeddings == theirs.max_position_embeddings


@pytest.mark.parametrize("text_type", ["gemma3_text", "mistral", "ministral3"])
def test_an_empty_text_config_is_the_class_s_own(text_type):
    """As far as sizes go; what a class's rotation says is a matter of its family."""
    wrapper = "Gemma3ForConditionalGeneration" if text_type == "gemma3_text" else "Mistral3ForConditionalGeneration"
    spec = read({"architectures": [wrapper], "text_config": {"model_type": text_type}})
    theirs = (Gemma3Config if text_type == "gemma3_text" else Mistral3Config)(
        text_config={"model_type": text_type}
    ).text_config
    assert (spec.width, spec.num_layers, spec.vocab_size, spec.max_position_embeddings, spec.tie_embeddings) == (
        theirs.hidden_size,
        theirs.num_hidden_layers,
        theirs.vocab_size,
        theirs.max_position_embeddings,
        theirs.tie_word_embeddings,
    )
    assert spec.layers[0].mlp.hidden == theirs.intermediate_size
    assert spec.layers[0].attention.num_heads == theirs.num_attention_heads


def test_a_model_type_is_enough():
    config = gemma3_4b()
    del config["architectures"], config["text_config"]["model_type"]
    assert read(config) == read(gemma3_4b())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "'text_config' is None"),
        ({"text_config": {"model_type": "qwen2_audio"}}, "text part of Gemma3.*'qwen2_audio', which is not known"),
        ({"text_config": {"some_future_key": 1}}, "config.json, text_config: the key 'some_future_key'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "'quantization_config'"),
        ({"some_future_key": 1}, "config.json: the key 'some_future_key'"),
        ({"model_type": "mistral3"}, "'model_type' is 'mistral3'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes, message):
    with pytest.raises(UnknownArchitecture, match=message):
        read(gemma3_4b() | changes)


def test_tensors_of_no_known_part_are_refused(tmp_path):
    model = gemma3(text("gemma3"))
    model.save_pretrained(tmp_path)
    tensors = {name: value.numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors | {"audio_tower.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    with pytest.raises(BadCheckpoint, match=r"has tensor 'audio_tower\.weight' that"):
        check_checkpoint(checkpoint, architecture.params(spec), ignored=architecture.ignored_tensors(spec))


def test_a_missing_head_is_named_where_nobody_ties(tmp_path):
    mistral3(text("mistral"), tie_word_embeddings=True).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match=r"lacks tensor 'language_model\.lm_head\.weight'"):
        load(tmp_path)
