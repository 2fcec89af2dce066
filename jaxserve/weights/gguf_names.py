"""Names of tensors in GGUF files → Hugging Face's. Source: llama.cpp's gguf-py/gguf/tensor_mapping.py."""

from jaxserve.weights.gguf_families import GGUFFamily
from jaxserve.weights.gguf_ranking import RANK_TENSOR, SCORE_TENSOR

DENSE_NAMES = {"dense_2": "2_Dense/linear", "dense_3": "3_Dense/linear"}  # of EmbeddingGemma, over pooled vectors
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", **DENSE_NAMES}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
# Before experts were stacked, Mixtral's had a tensor each: blk.0.ffn_gate.7.weight.
EXPERT_NAMES = {"ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3"}
FUSED_EXPERTS = ("ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj")  # as transformers calls it, without a suffix


def hf_name(name: str, family: GGUFFamily) -> str:
    """Return a tensor's name in Hugging Face's checkpoints. An unknown name stays, and is reported as surplus."""
    if name == RANK_TENSOR:
        return SCORE_TENSOR
    stem, dot, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        return name
    top_names = family.top_names or TOP_NAMES
    if stem in top_names:
        return top_names[stem] + dot + suffix
    layer, _, rest = stem.removeprefix("blk.").partition(".")
    if not stem.startswith("blk.") or not _is_number(layer):
        return name
    prefix = family.layer.format(layer)
    layer_name = family.names.get(rest) or LAYER_NAMES.get(rest)
    if layer_name:
        return f"{prefix}{layer_name}.{suffix}"
    if f"{rest}.{suffix}" == FUSED_EXPERTS[0]:
        return prefix + FUSED_EXPERTS[1]
    kind, _, expert = rest.partition(".")
    if kind in EXPERT_NAMES and _is_number(expert):
        return f"{prefix}block_sparse_moe.experts.{expert}.{EXPERT_NAMES[kind]}.{suffix}"
    return name


def _is_number(text: str) -> bool:
    """Whether a text is a number as one writes it: no leading zeros, no digits of other scripts."""
    return text.isdecimal() and text == str(int(text[:9]))
