"""Qwen 1.5 and 2 with experts: Qwen 2's attention, and a shared expert beside the others, behind a gate of its own."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERT, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_num_experts, read_qwen_experts, read_sparse_layers, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_decoder_spec(
        config,
        architecture_name="Qwen2MoeForCausalLM",
        model_type="qwen2_moe",
        windows=_read_windows(config),
        num_kv_heads=16,
        attention={"qkv_bias": config.get_bool("qkv_bias", True)},
    )
    num_experts = read_num_experts(config, "num_experts", "num_local_experts", default=60)
    moe = read_qwen_experts(
        config,
        num_experts=num_experts,
        top_k=4,
        hidden=1408,
        shared=5632,
        renormalize=config.get_bool("norm_topk_prob", False),
    )
    return with_experts(spec, moe, read_sparse_layers(config, spec.num_layers))


def _read_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """Return each layer's window: of those before `max_window_layers` every other one has one, if any."""
    used, end = config.get_bool("use_sliding_window", False), config.get_whole_number("max_window_layers", 28)
    size = config.get("sliding_window", 4096)
    if not used:
        return read_typed_windows(config, None)
    num_layers = config.get_positive_int("num_hidden_layers")
    types = ["sliding_attention" if i % 2 == 0 and i < end else "full_attention" for i in range(num_layers)]
    return read_typed_windows(config, config.get_positive_int("sliding_window", size), default_types=types)


ARCHITECTURE = DecoderFamily(_read, named({**EXPERTS, **SHARED_EXPERT}, STACKED_EXPERTS, FUSED_EXPERTS))
