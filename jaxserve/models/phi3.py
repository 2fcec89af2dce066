"""Phi 3, 3.5, 4 and 4-mini: fused query/key/value and gate/up tensors, LongRoPE, heads of which a part rotates."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_window, uniform_windows
from jaxserve.models.family import FUSED, DecoderFamily, named
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    window = read_window(config)
    return read_decoder_spec(
        config,
        architecture_name="Phi3ForCausalLM",
        model_type="phi3",
        windows=uniform_windows(config, window),
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        rope_fraction=1.0,
        default_max_positions=4096,
    )


UNFUSED = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
}
ARCHITECTURE = DecoderFamily(_read, named(FUSED, UNFUSED))
