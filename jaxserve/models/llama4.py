"""Llama 4, text: layers that rotate and see chunks, layers that do neither, and experts of weighted inputs.

Attention by chunks (`attention_chunk_size` tokens, which do not see those before their chunk) is not computed. Requests
are no longer than one chunk, within which it is attention as usual.
"""

from dataclasses import replace

from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.models.attention_spec import AttentionSpec, QueryTemperature
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_layers_of, read_rotating_layers, read_top_k
from jaxserve.models.family import FUSED_EXPERTS, LLAMA_LAYOUT, SHARED_EXPERT, DecoderFamily, ExpertStacks, named
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.origins import rename_stems
from jaxserve.models.spec import DecoderSpec, MoESpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias, rotates = config.get_bool("attention_bias", False), read_rotating_layers(config)
    spec = read_decoder_spec(
        config,
        architecture_name="Llama4ForCausalLM",
        model_type="llama4_text",
        num_kv_heads=8,
        head_dim=128,
        default_theta=500_000.0,
        is_rope_interleaved=True,
        default_max_positions=131_072,
        default_vocab_size=202_048,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"hidden": config.get_positive_int("intermediate_size_mlp", 16_384)},
    )
    attention = spec.layers[0].attention
    assert isinstance(attention, AttentionSpec)
    kinds = _read_attention(config, attention, spec.norm.eps)
    layers = tuple(replace(layer, attention=kinds[value]) for layer, value in zip(spec.layers, rotates, strict=True))
    step = config.get_positive_int("interleave_moe_layer_step", 1)
    sparse = config.get("moe_layers", range(step - 1, spec.num_layers, step))
    limit = min(spec.max_position_embeddings, _read_chunk(config, rotates) or spec.max_position_embeddings)
    return with_experts(replace(spec, layers=layers, max_position_embeddings=limit), _read_experts(config), sparse)


def _read_attention(config: ConfigReader, attention: AttentionSpec, eps: float) -> tuple[AttentionSpec, AttentionSpec]:
    """Return the attention of layers that do not rotate, and of those that do."""
    config.require("attn_temperature_tuning", True, False, 4)
    scale, interval = config.get_positive_float("attn_scale", 0.1), config.get_positive_float("floor_scale", 8192)
    temperature = QueryTemperature(scale=scale, interval=interval, offset=1)
    is_tuned = config.get("attn_temperature_tuning", True)
    still = replace(attention, rope=None, temperature=temperature if is_tuned else None)
    if not config.get_bool("use_qk_norm", True):
        return still, attention
    return still, replace(attention, qk_norm="head", norms_after_rope=True, head_norm=NormSpec(eps, has_scale=False))


def _read_chunk(config: ConfigReader, rotates: list[int]) -> int | None:
    """Return the tokens of a chunk; None where no layer sees chunks."""
    has_chunks = not config.has("attention_chunk_size") or config.get("attention_chunk_size", None) is not None
    default = ["chunked_attention" if value and has_chunks else "full_attention" for value in rotates]
    chunked = read_layers_of(config, ("chunked_attention",), ("full_attention",), default)
    return config.get_positive_int("attention_chunk_size", 8192) if chunked else None


def _read_experts(config: ConfigReader) -> MoESpec:
    num_experts = read_num_experts(config, "num_local_experts", default=16)
    top_k, hidden = read_top_k(config, num_experts, 1), config.get_positive_int("intermediate_size", 8192)
    router = RouterSpec(top_k=top_k, score="sigmoid", renormalize=False, weighs_inputs=True)
    return mix_experts(config, router, num_experts=num_experts, hidden=hidden, shared=hidden)


LAYOUT = rename_stems({**LLAMA_LAYOUT, **FUSED_EXPERTS, **SHARED_EXPERT}, "mlp.", "feed_forward.")
NAMES = named(LAYOUT | {"router": "feed_forward.router"}, stacks=ExpertStacks(is_in_out=True))
ARCHITECTURE = DecoderFamily(_read, NAMES)
