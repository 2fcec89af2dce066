"""Tiny checkpoints for this room: a config, random weights under Hugging Face names, and writers for every format."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from jaxserve.weights import orbax_writer
from jaxserve.weights.load import param_name
from jaxserve.weights.pending import PendingTensor

HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, VOCABULARY = 4, 2, 8, 32, 64, 48
HF_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def weights(seed: int = 0, *, layers: int = 1, bias: bool = False, tied: bool = True) -> dict[str, np.ndarray]:
    """float32 tensors of a tiny Llama under Hugging Face names."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "post_attention_layernorm": (WIDTH,),
            "self_attn.q_proj": (HEADS * HEAD_DIM, WIDTH),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
            "mlp.gate_proj": (HIDDEN, WIDTH),
            "mlp.up_proj": (HIDDEN, WIDTH),
            "mlp.down_proj": (WIDTH, HIDDEN),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if bias and name.endswith(("q_proj", "k_proj", "v_proj")):
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def config(layers: int = 1, tied: bool = True) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": tied,
        "rope_theta": 10000.0,
    }


def write_directory(path: Path, tensors: dict[str, np.ndarray], hf_config: dict[str, Any] | None = None) -> Path:
    import json

    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(hf_config or config()))
    save_file(tensors, path / "model.safetensors")
    return path


def write_orbax(path: Path, leaves: Mapping[tuple[Any, ...], Any], hf_config: dict[str, Any] | None = None) -> Path:
    """Leaves that were loaded, none of them packed."""
    import json

    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(hf_config or config()))
    arrays = {param_name(leaf): np.asarray(array) for leaf, array in leaves.items()}
    orbax_writer.write_weights(
        path, [PendingTensor(name, each.shape, each.dtype, partial(np.copy, each)) for name, each in arrays.items()]
    )
    return path


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    arch: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    layers: int = 1,
    theta: float = 10000.0,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """A GGUF file as llama.cpp's converter writes it. metadata: more keys, typed by their values."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in (metadata or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](key, value)
    for name, value in tensors.items():
        stored = gguf_name(name)
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            value = permuted(value, HEADS if ".q_proj." in name else KV_HEADS)
        if value.ndim == 1 or value.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            writer.add_tensor(stored, value.astype(np.float32))
        else:
            writer.add_tensor(stored, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(value: np.ndarray, heads: int) -> np.ndarray:
    """Half-split rows to interleaved rows, head by head, pair by pair; written out so as to be plainly right."""
    size = value.shape[0] // heads
    order = [
        head * size + pair + half * size // 2 for head in range(heads) for pair in range(size // 2) for half in (0, 1)
    ]
    return value[order]


def gguf_name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{HF_TO_GGUF[rest]}.{suffix}"
    return f"{HF_TO_GGUF.get(stem, stem)}.{suffix}"
