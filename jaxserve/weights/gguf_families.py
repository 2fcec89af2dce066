"""Differences between GGUF architectures: names and layouts of tensors, and keys of config.json.

Source: llama.cpp's conversion/ (what is written) and src/models/ (what is implied where nothing is).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.gguf_metadata import GGUFMetadata, is_int

ExtraConfig: TypeAlias = Callable[[GGUFMetadata, Mapping[str, Any], Mapping[str, tuple[int, ...]]], dict[str, Any]]
"""(metadata, config so far, shapes of the file's tensors by name) → further keys of config.json, or other values."""

GEMMA_SCALES_BY_WIDTH = {("gemma2", 46), ("gemma3", 62)}
"""Architecture and layers of the models (27B) whose scores are scaled by their width a head, not by the head size."""
STARCODER2_WINDOW = 4096
"""Window of the published models, which the converter leaves out."""
SANDWICH_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
POST_NORM_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
UNGATED_NAMES = {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
FUSED_NAMES = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}

BERT_TOP_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
BERT_NAMES = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


@dataclass(frozen=True, slots=True)
class GGUFFamily:
    """One architecture of GGUF files.

    class_name, model_type   as config.json has them; `extra` may say otherwise
    extra                    keys of config.json beside those that all have
    is_permuted              rows of queries and keys lie in the order of interleaved rotation
    norm_offset              norms are stored as the checkpoint's plus this
    names                    layers' tensors that are called otherwise than usual
    top_names, layer         other names of tensors outside layers, and of a layer; None, and the usual one: a decoder's
    layer_norm_eps           what config.json calls the epsilon of LayerNorms; None: norms are RMSNorms
    """

    class_name: str
    model_type: str
    extra: ExtraConfig
    is_permuted: bool = False
    norm_offset: float = 0.0
    names: Mapping[str, str] = field(default_factory=dict)
    layer_norm_eps: str | None = None
    top_names: Mapping[str, str] | None = None
    layer: str = "model.layers.{}."


def _biases(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": "blk.0.ffn_gate.bias" in shapes}


def _llama(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Llama; Mistral, which is Llama with a window; Mixtral, which is Llama with experts."""
    window = _window(metadata)
    if metadata.find(".expert_count"):
        mixtral = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
        return mixtral | _experts(metadata, "num_local_experts") | {"sliding_window": window}
    biases = _biases(metadata, config, shapes)
    if window is None:
        return biases
    return biases | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}


def _mistral3(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Mistral Small 3.1 and 3.2, or Ministral 3, which scales queries by their position."""
    if not metadata.find(".attention.temperature_scale"):
        return {"sliding_window": None}
    scaling = config.get("rope_scaling")
    if not scaling:
        raise metadata.unsupported(".attention.temperature_scale", "there", "absent where there is no yarn scaling")
    rope = scaling | {"rope_theta": config["rope_theta"]}
    rope["llama_4_scaling_beta"] = metadata.get_positive_float(".attention.temperature_scale")
    ministral3 = {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3"}
    return ministral3 | {"rope_parameters": rope, "rope_scaling": None, "rope_theta": None}


def _granite(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    metadata.get(".rope.scaling.finetuned", lambda value: value is True, "true: queries and keys rotate", True)
    head_scale = config["head_dim"] ** -0.5
    return _biases(metadata, config, shapes) | {
        "attention_multiplier": metadata.get_positive_float(".attention.scale", head_scale),
        "embedding_multiplier": metadata.get_positive_float(".embedding_scale", 1.0),
        "residual_multiplier": metadata.get_positive_float(".residual_scale", 1.0),
        "logits_scaling": metadata.get_positive_float(".logit_scale", 1.0),
    }


def _gemma2(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return _gemma(metadata, config) | {
        "sliding_window": metadata.get_positive_int(".attention.sliding_window", 4096),
        "attn_logit_softcapping": metadata.get_positive_float(".attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.get_positive_float(".final_logit_softcapping", 30.0),
    }


def _gemma3(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Six layers make a period of which the last sees all, unless the file says otherwise."""
    window, layers = _window(metadata), config["num_hidden_layers"]
    softcap = metadata.find(".final_logit_softcapping")
    return _gemma(metadata, config) | {
        "layer_types": _layer_types(metadata, layers, default_period=6 if window else 1),
        "sliding_window": window or config["max_position_embeddings"],
        "rope_theta": metadata.get_positive_float(".rope.freq_base"),
        "rope_local_base_freq": metadata.get_positive_float(".rope.freq_base_swa", 10_000.0),
        "final_logit_softcapping": metadata.get_positive_float(".final_logit_softcapping") if softcap else None,
    }


def _gemma_embedding(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    metadata.get(".attention.causal", lambda value: value is False, "false: tokens see those behind them", False)
    return _gemma3(metadata, config, shapes) | {"use_bidirectional_attention": True}


def _gemma(metadata: GGUFMetadata, config: Mapping[str, Any]) -> dict[str, Any]:
    is_by_width = (metadata.architecture, config["num_hidden_layers"]) in GEMMA_SCALES_BY_WIDTH
    width_a_head = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width_a_head if is_by_width else config["head_dim"],
    }


def _layer_types(metadata: GGUFMetadata, layers: int, default_period: int) -> list[str]:
    pattern = metadata.find(".attention.sliding_window_pattern")
    if pattern is None or is_int(pattern):
        period = default_period if pattern is None else metadata.get_positive_int(".attention.sliding_window_pattern")
        pattern = [bool((layer + 1) % period) for layer in range(layers)]
    if not isinstance(pattern, list) or len(pattern) != layers:
        raise metadata.unsupported(".attention.sliding_window_pattern", pattern, f"a number, or {layers} truth values")
    return ["sliding_attention" if slides else "full_attention" for slides in pattern]


def _phi3(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    positions = config["max_position_embeddings"]
    return {
        "sliding_window": _window(metadata),
        "partial_rotary_factor": config["rotated"] / config["head_dim"],
        "original_max_position_embeddings": metadata.get_positive_int(
            ".rope.scaling.original_context_length", positions
        ),
    }


def _olmo2(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if _window(metadata) is not None:
        raise BadCheckpoint(f"{metadata.path} has windows, so it is an OLMo 3 model; of this kind OLMo 2 is supported.")
    return {"attention_bias": "blk.0.attn_q.bias" in shapes}


def _qwen3moe(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    experts = _experts(metadata, "num_experts")
    used = experts["num_experts_per_tok"]
    hidden = metadata.get_positive_int(".expert_feed_forward_length", max(config["intermediate_size"] // used, 1))
    return experts | {
        "moe_intermediate_size": hidden,
        "norm_topk_prob": True,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
    }


def _experts(metadata: GGUFMetadata, name: str) -> dict[str, int]:
    return {
        name: metadata.get_positive_int(".expert_count"),
        "num_experts_per_tok": metadata.get_positive_int(".expert_used_count"),
    }


def _window(metadata: GGUFMetadata) -> int | None:
    """The window of the layers that have one; 0 stands for none."""
    key = ".attention.sliding_window"
    return metadata.get_positive_int(key) if metadata.find(key) else None


def _stablelm(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Tensors say what is computed: the converter writes a true use_parallel_residual where config.json has none."""
    metadata.find(".use_parallel_residual")
    return {
        "partial_rotary_factor": config["rotated"] / config["head_dim"],
        "use_qkv_bias": "blk.0.attn_q.bias" in shapes,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in shapes,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in shapes,
    }


def _starcoder2(
    metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The window is that of the published models where the file has none."""
    is_written = metadata.find(".attention.sliding_window") is not None
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": "blk.0.attn_q.bias" in shapes,
        "sliding_window": _window(metadata) if is_written else STARCODER2_WINDOW,
    }


def _bert(metadata: GGUFMetadata, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """BERT, and RoBERTa, whose table of positions is cut so that the first row is that of the first token."""
    metadata.get(".attention.causal", lambda value: value is False, "false: tokens see those behind them", False)
    tables = {"max_position_embeddings": "position_embd.weight", "type_vocab_size": "token_types.weight"}
    if missing := [name for name in tables.values() if len(shapes.get(name, ())) != 2]:
        raise BadCheckpoint(f"{metadata.path}: tensor {missing[0]!r} is missing or not a table.")
    absent = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings"))
    return absent | {key: shapes[name][0] for key, name in tables.items()} | {"hidden_act": "gelu"}


FAMILIES: dict[str, GGUFFamily] = {
    "bert": GGUFFamily(
        "BertModel",
        "bert",
        _bert,
        names=BERT_NAMES,
        layer_norm_eps="layer_norm_eps",
        top_names=BERT_TOP_NAMES,
        layer="encoder.layer.{}.",
    ),
    "gemma2": GGUFFamily("Gemma2ForCausalLM", "gemma2", _gemma2, norm_offset=1.0, names=SANDWICH_NAMES),
    "gemma-embedding": GGUFFamily(
        "Gemma3TextModel", "gemma3_text", _gemma_embedding, norm_offset=1.0, names=SANDWICH_NAMES
    ),
    "gemma3": GGUFFamily("Gemma3ForCausalLM", "gemma3_text", _gemma3, norm_offset=1.0, names=SANDWICH_NAMES),
    "granite": GGUFFamily("GraniteForCausalLM", "granite", _granite, is_permuted=True),
    "llama": GGUFFamily("LlamaForCausalLM", "llama", _llama, is_permuted=True),
    "mistral3": GGUFFamily("MistralForCausalLM", "mistral", _mistral3, is_permuted=True),
    "olmo2": GGUFFamily("Olmo2ForCausalLM", "olmo2", _olmo2, names=POST_NORM_NAMES),
    "phi3": GGUFFamily("Phi3ForCausalLM", "phi3", _phi3, names=FUSED_NAMES),
    "qwen2": GGUFFamily("Qwen2ForCausalLM", "qwen2", lambda metadata, config, shapes: {}),
    "qwen3": GGUFFamily(
        "Qwen3ForCausalLM",
        "qwen3",
        lambda metadata, config, shapes: {"attention_bias": "blk.0.attn_q.bias" in shapes},
    ),
    "qwen3moe": GGUFFamily("Qwen3MoeForCausalLM", "qwen3_moe", _qwen3moe),
    "smollm3": GGUFFamily("SmolLM3ForCausalLM", "smollm3", _biases, is_permuted=True),
    "stablelm": GGUFFamily("StableLmForCausalLM", "stablelm", _stablelm, layer_norm_eps="layer_norm_eps"),
    "starcoder2": GGUFFamily(
        "Starcoder2ForCausalLM", "starcoder2", _starcoder2, names=UNGATED_NAMES, layer_norm_eps="norm_epsilon"
    ),
}
"""By general.architecture."""
