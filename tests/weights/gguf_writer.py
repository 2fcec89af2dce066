"""GGUF files of every family, written from a config.json and its tensors as llama.cpp's converter writes them.

Names of tensors are those of the `gguf` package. Which keys a file gets, and what happens to a tensor on the way, is
told here once more, from conversion/*.py of llama.cpp; files of that program itself were read with the same result.
"""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.weights.tiny import permuted

ARCHITECTURES = {
    "bert": gguf.MODEL_ARCH.BERT,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "mistral": gguf.MODEL_ARCH.MISTRAL3,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
}
"""model_type → architecture of the file. A Mistral that is no text part is written as Llama, see test_gguf.py."""
PERMUTED = {"granite", "llama", "ministral3", "mistral", "mixtral", "smollm3"}
EXPERT = re.compile(r"(model\.layers\.\d+\.(?:mlp|block_sparse_moe)\.experts)\.(\d+)\.(\w+)\.weight")
MERGED_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
OLD_NAMES = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}


def write(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    *,
    kind: Kind = Kind.F32,
    is_old: bool = False,
    metadata: dict[str, Any] | None = None,
    blocks: dict[str, tuple[Kind, np.ndarray]] | None = None,
    tensors_of_part: int = 0,
    arch: gguf.MODEL_ARCH | None = None,
    own: dict[str, np.ndarray] | None = None,
    general: dict[str, str] | None = None,
) -> Path:
    """Write the file and return its path.

    is_old     each of Mixtral's experts has a tensor of its own
    metadata   further keys of the architecture, or other values; None: no such key
    tensors_of_part  the model is cut into files of so many tensors; 0: it is not
    blocks     type and bytes of tensors, by the names in the file, instead of their values
    arch       of the file, where the model_type does not say
    own        further tensors, by the names in the file
    general    further keys that are not the architecture's
    """
    arch = arch or ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch], split_max_tensors=tensors_of_part)
    for key, value in (keys_of(config) | (metadata or {})).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}
        if value is not None:
            (writer.add_array if isinstance(value, list) else add[type(value)])(f"{writer.arch}.{key}", value)
    for key, text in (general or {}).items():
        writer.add_string(key, text)
    for name, value in (own or {}).items():
        writer.add_tensor(name, value)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, value in stacked(config, tensors, is_old).items():
        stored = name if name.startswith(("blk.", "rope_")) else names.get_name(name, (".weight", ".bias"))
        assert stored, name
        if blocks and stored in blocks:
            writer.add_tensor(stored, blocks[stored][1], raw_dtype=blocks[stored][0])
        elif value.ndim == 1 or value.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            writer.add_tensor(stored, value.astype(np.float32))
        else:
            writer.add_tensor(stored, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def keys_of(config: dict[str, Any]) -> dict[str, Any]:
    """Keys of the architecture, without its name before them."""
    heads, model_type = config["num_attention_heads"], config["model_type"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
    }
    norm_keys = {"rms_norm_eps": "rms_epsilon", "layer_norm_eps": "epsilon", "norm_epsilon": "epsilon"}
    keys |= {f"attention.layer_norm_{key}": config[name] for name, key in norm_keys.items() if name in config}
    if "head_dim" in config:
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if model_type in PERMUTED:
        keys |= {"vocab_size": config["vocab_size"], "rope.dimension_count": head_dim}
    if "num_experts_per_tok" in config:
        keys["expert_count"] = config.get("num_experts") or config["num_local_experts"]
        keys["expert_used_count"] = config["num_experts_per_tok"]
    rope = config["rope_parameters"]
    return keys | rope_keys(rope.get("full_attention", rope)) | family_keys(config, head_dim)


def rope_keys(rope: dict[str, Any]) -> dict[str, Any]:
    """Keys of the rotation; Llama 3's and LongRoPE's factors are tensors."""
    keys: dict[str, Any] = {"rope.freq_base": rope["rope_theta"]}
    if rope["rope_type"] in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    if rope["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        keys |= {f"rope.scaling.yarn_{name}": rope[name] for name in ("beta_fast", "beta_slow") if name in rope}
    return keys


def family_keys(config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Keys that only some architectures have."""
    match config["model_type"]:
        case "gemma2":
            softcaps = {name: config[name] for name in ("attn_logit_softcapping", "final_logit_softcapping")}
            return softcaps | {"attention.sliding_window": config["sliding_window"], "rope.freq_base": None}
        case "gemma3_text":
            local = config["rope_parameters"]["sliding_attention"]["rope_theta"]
            softcap = {"final_logit_softcapping": config.get("final_logit_softcapping")}
            return softcap | {"attention.sliding_window": config["sliding_window"], "rope.freq_base_swa": local}
        case "granite":
            scales = {"attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier"}
            scales |= {"residual_scale": "residual_multiplier", "logit_scale": "logits_scaling"}
            return {key: config[name] for key, name in scales.items()}
        case "ministral3":
            rope = config["rope_parameters"]
            log_multiplier = {"rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"]}
            return log_multiplier | {"attention.temperature_scale": float(rope["llama_4_scaling_beta"])}
        case "phi3":
            return phi3_keys(config, head_dim)
        case "qwen3_moe":
            return {"expert_feed_forward_length": config["moe_intermediate_size"]}
        case "stablelm":
            rotated = int(config["rope_parameters"]["partial_rotary_factor"] * head_dim)
            is_parallel = config.get("use_parallel_residual", True)
            return {"rope.dimension_count": rotated, "use_parallel_residual": is_parallel, "rope.freq_base": None}
    return {}


def phi3_keys(config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """The converter works out LongRoPE's factor of attention scores itself."""
    rope, positions = config["rope_parameters"], config["max_position_embeddings"]
    original = config["original_max_position_embeddings"]
    keys: dict[str, Any] = {
        "rope.scaling.original_context_length": original,
        "rope.dimension_count": int(rope.get("partial_rotary_factor", 1.0) * head_dim),
        "attention.sliding_window": config.get("sliding_window") or 0,
    }
    if "long_factor" in rope:
        scale = positions / original
        factor = np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1.0
        keys["rope.scaling.attn_factor"] = float(factor)
    return keys


def stacked(config: dict[str, Any], tensors: dict[str, np.ndarray], is_old: bool) -> dict[str, np.ndarray]:
    """The tensors as they are written, still under names that the `gguf` package knows."""
    written, experts = {}, {}
    for name, value in tensors.items():
        if match := EXPERT.fullmatch(name):
            layer = name.split(".")[2]
            if is_old:
                written[f"blk.{layer}.{OLD_NAMES[match[3]]}.{match[2]}.weight"] = value
            else:
                merged = f"model.layers.{layer}.mlp.experts.{MERGED_NAMES.get(match[3], match[3])}.weight"
                experts.setdefault(merged, []).append(value)
            continue
        if config["model_type"] in PERMUTED and (".q_proj." in name or ".k_proj." in name):
            is_query = ".q_proj." in name
            value = permuted(value, config["num_attention_heads" if is_query else "num_key_value_heads"])
        if config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
            value = value + np.float32(1)
        written[name] = value
    for name in ("long_factor", "short_factor"):
        if name in config["rope_parameters"]:
            factors = np.array(config["rope_parameters"][name], np.float32)
            written[f"rope_factors_{name.removesuffix('_factor')}.weight"] = factors
    return written | {name: np.stack(values) for name, values in experts.items()}
