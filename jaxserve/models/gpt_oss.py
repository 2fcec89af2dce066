"""gpt-oss: a window in every other layer, sinks, and a mixture of experts with biases and a clamped SwiGLU."""

from jaxserve.layers.mlp import ClampedSwiGLU
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.rope import RopeSpec, YarnScaling
from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, read_typed_windows, with_mlps
from jaxserve.models.family import DecoderFamily, ExpertStacks, named
from jaxserve.models.mxfp4_config import read_mxfp4
from jaxserve.models.rope_config import yarn_attention_factor
from jaxserve.models.spec import DecoderSpec, MoESpec

TENSORS = {
    "sinks": "self_attn.sinks",
    "router": "mlp.router",
    "expert_gate": "mlp.experts.gate_up_proj",
    "expert_up": "mlp.experts.gate_up_proj",
    "expert_down": "mlp.experts.down_proj",
    "expert_gate_bias": "mlp.experts.gate_up_proj_bias",
    "expert_up_bias": "mlp.experts.gate_up_proj_bias",
    "expert_down_bias": "mlp.experts.down_proj_bias",
}
DEFAULT_ROPE = RopeSpec(150_000.0, YarnScaling(32.0, 4096, 32.0, 1.0, yarn_attention_factor(32.0, 1.0), truncate=False))


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", True)
    has_rope = any(config.get(name, None) for name in ("rope_parameters", "rope_scaling"))
    spec = read_decoder_spec(
        config,
        architecture_name="GptOssForCausalLM",
        model_type="gpt_oss",
        windows=read_typed_windows(config, config.get_positive_int("sliding_window", 128), full_every=2),
        num_kv_heads=8,
        head_dim=64,
        rope=None if has_rope else DEFAULT_ROPE,
        default_theta=150_000.0,
        default_max_positions=131_072,
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "has_sinks": True},
    )
    num_experts = config.get_positive_int("num_local_experts", 128, maximum=MAX_EXPERTS)
    top_k = read_top_k(config, num_experts, 4)
    config.require("experts_per_token", top_k, None)
    config.require("hidden_act", "silu")
    read_mxfp4(config)
    config.get_positive_int("initial_context_length", 1)  # says the same as the rotation
    alpha, limit = config.get_positive_float("swiglu_alpha", 1.702), config.get_positive_float("swiglu_limit", 7.0)
    moe = MoESpec(
        num_experts=num_experts,
        hidden=config.get_positive_int("intermediate_size"),
        router=RouterSpec(top_k=top_k, has_bias=True),  # a softmax over the chosen ones is a renormalised one over all
        activation=ClampedSwiGLU(alpha=alpha, limit=limit),
        bias=True,
    )
    return with_mlps(spec, (moe,) * spec.num_layers)


ARCHITECTURE = DecoderFamily(_read, named(TENSORS, stacks=ExpertStacks(is_in_out=True, is_interleaved=True)))
