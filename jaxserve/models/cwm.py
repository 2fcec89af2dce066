"""CWM (Code World Model): Llama 3 with windows in all layers but every fourth, from the first on."""

from jaxserve.layers.rope import Llama3Scaling, RopeSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec

DEFAULT_ROPE = RopeSpec(1_000_000.0, Llama3Scaling(16.0, 1.0, 4.0, 8192))


def _read(config: ConfigReader) -> DecoderSpec:
    window = config.get_positive_int("sliding_window", 8192)
    has_rope = any(config.get(name, None) for name in ("rope_parameters", "rope_scaling"))
    if not has_rope:
        config.require("rope_theta", DEFAULT_ROPE.theta, None)
    return read_decoder_spec(
        config,
        architecture_name="CwmForCausalLM",
        model_type="cwm",
        windows=read_typed_windows(config, window, full_every=4, is_first_full=True),
        num_kv_heads=8,
        head_dim=128,
        rope=None if has_rope else DEFAULT_ROPE,
        default_theta=1_000_000.0,
        default_max_positions=131_072,
        default_vocab_size=128_256,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
