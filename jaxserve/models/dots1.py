"""dots.llm1: Qwen 3's attention, and a mixture as DeepSeek-V3's behind dense layers."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_deepseek_moe, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias, num_layers = config.get_bool("attention_bias", False), config.get_positive_int("num_hidden_layers")
    # A config.json that names no window has that of transformers' class, in the layers from max_window_layers on.
    has_window = not config.has("sliding_window") or config.get("sliding_window", None) is not None
    start = config.get_whole_number("max_window_layers", 62) if has_window else num_layers
    types = ["full_attention" if index < start else "sliding_attention" for index in range(num_layers)]
    window = config.get_positive_int("sliding_window", 4096) if has_window else None
    spec = read_decoder_spec(
        config,
        architecture_name="Dots1ForCausalLM",
        model_type="dots1",
        windows=read_typed_windows(config, window, default_types=types),
        default_max_positions=2048,
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"},
    )
    config.get_whole_number("max_window_layers", 62)
    moe = read_deepseek_moe(config, num_experts=128, top_k=6, hidden=1408, num_shared=2, renormalize=False)
    return with_experts(spec, moe, range(config.get_whole_number("first_k_dense_replace", 0), num_layers))


ARCHITECTURE = DecoderFamily(_read, named({**EXPERTS, **SHARED_EXPERTS}, STACKED_EXPERTS, FUSED_EXPERTS))
