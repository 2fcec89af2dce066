"""OLMo 3: OLMo 2 with windows in three of four layers; a scaling of positions holds in the full layers alone."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows, with_ropes
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.olmo2 import NORMS_BEHIND
from jaxserve.models.rope_config import ThetaKey, read_typed_ropes
from jaxserve.models.spec import DecoderSpec

# Which key gives a kind's theta where rope_parameters has none: one key for both.
THETAS = {kind: ThetaKey("rope_theta", 500_000.0) for kind in ("full_attention", "sliding_attention")}


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    windows = read_typed_windows(config, config.get_positive_int("sliding_window", 4096), full_every=4)
    ropes = read_typed_ropes(config, THETAS, default_max_positions=2048)
    spec = read_decoder_spec(
        config,
        architecture_name="Olmo3ForCausalLM",
        model_type="olmo3",
        windows=windows,
        rope=ropes["full_attention"],
        default_max_positions=2048,
        default_vocab_size=50_304,
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "full"},
        layer={"norm_place": "post"},
    )
    kinds = ("full_attention" if window is None else "sliding_attention" for window in windows)
    return with_ropes(spec, tuple(ropes[kind] for kind in kinds))


ARCHITECTURE = DecoderFamily(_read, named(NORMS_BEHIND))
