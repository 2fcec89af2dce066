"""Llama 4, text: layers that rotate and see chunks, layers that do neither, and experts of weighted inputs.

Attention by chunks (`attention_chunk_size` tokens, which do not see those before their chunk) is not computed. Requests
are no longer than one chunk, within which it is attention as usual.
"""

from dataclasses import replace

from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.models.attention_spec import AttentionSpec, QueryTemperature
from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_activation, read_decoder_spec, read_top_k
from jaxserve.models.family import DecoderFamily, ExpertStacks, named
from jaxserve.models.moe_values import read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MLPSpec, MoESpec


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    bias = config.get_bool("attention_bias", False)
    spec = read_decoder_spec(
        config,
        architecture_name="Llama4ForCausalLM",
        model_type="llama4_text",
        windows=(None,) * num_layers,
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
    every = config.get_positive_int("no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers", []) or [int((index + 1) % every != 0) for index in range(num_layers)]
    if len(rotates) < num_layers or any(value not in (0, 1) for value in rotates):
        raise config.unsupported("no_rope_layers", rotates, f"0 or 1 for each of {num_layers} layers")
    attention = spec.layers[0].attention
    assert isinstance(attention, AttentionSpec)
    kinds = _read_attention(config, attention, spec.norm.eps)
    layers = tuple(replace(layer, attention=kinds[value]) for layer, value in zip(spec.layers, rotates, strict=False))
    step = config.get_positive_int("interleave_moe_layer_step", 1)
    sparse = config.get("moe_layers", range(step - 1, num_layers, step))
    limit = min(spec.max_position_embeddings, _read_chunk(config, rotates) or spec.max_position_embeddings)
    return with_experts(replace(spec, layers=layers, max_position_embeddings=limit), _read_experts(config), sparse)


def _read_attention(config: ConfigReader, attention: AttentionSpec, eps: float) -> tuple[AttentionSpec, AttentionSpec]:
    """Return the attention of layers that do not rotate, and of those that do."""
    config.require("attn_temperature_tuning", True, False, 4)
    scale, interval = config.get_positive_float("attn_scale", 0.1), config.get_positive_float("floor_scale", 8192)
    temperature = QueryTemperature(scale=scale, interval=interval, offset=1)
    still = replace(
        attention, rope=None, temperature=temperature if config.get("attn_temperature_tuning", True) else None
    )
    if not config.get_bool("use_qk_norm", True):
        return still, attention
    return still, replace(attention, qk_norm="head", norms_after_rope=True, head_norm=NormSpec(eps, has_scale=False))


def _read_chunk(config: ConfigReader, rotates: list[int]) -> int | None:
    """Return the tokens of a chunk; None where no layer sees chunks."""
    has_chunks = not config.has("attention_chunk_size") or config.get("attention_chunk_size", None) is not None
    default = ["chunked_attention" if value and has_chunks else "full_attention" for value in rotates]
    types = config.get("layer_types", default)
    if unknown := set(types) - {"chunked_attention", "full_attention"}:
        raise config.unsupported("layer_types", sorted(unknown), "'chunked_attention' or 'full_attention'")
    return config.get_positive_int("attention_chunk_size", 8192) if "chunked_attention" in types else None


def _read_experts(config: ConfigReader) -> MoESpec:
    num_experts = read_num_experts(config, "num_local_experts", default=16)
    hidden, activation = config.get_positive_int("intermediate_size", 8192), read_activation(config)
    return MoESpec(
        num_experts=num_experts,
        hidden=hidden,
        router=RouterSpec(
            top_k=read_top_k(config, num_experts, 1), score="sigmoid", renormalize=False, weighs_inputs=True
        ),
        activation=activation,
        shared=MLPSpec(hidden=hidden, activation=activation),
    )


TENSORS = {
    "gate": "feed_forward.gate_proj",
    "up": "feed_forward.up_proj",
    "down": "feed_forward.down_proj",
    "router": "feed_forward.router",
    "expert_gate": "feed_forward.experts.gate_up_proj",
    "expert_up": "feed_forward.experts.gate_up_proj",
    "expert_down": "feed_forward.experts.down_proj",
    "shared_mlp_gate": "feed_forward.shared_expert.gate_proj",
    "shared_mlp_up": "feed_forward.shared_expert.up_proj",
    "shared_mlp_down": "feed_forward.shared_expert.down_proj",
}
ARCHITECTURE = DecoderFamily(_read, named(TENSORS, stacks=ExpertStacks(is_in_out=True)))
