"""EXAONE 4: norms behind the blocks and over each head; where there are windows, full layers do not rotate."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows, without_ropes_in_full_layers
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.olmo2 import NORMS_BEHIND
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    windows = read_windows(config)
    spec = read_decoder_spec(
        config,
        architecture_name="Exaone4ForCausalLM",
        model_type="exaone4",
        windows=windows,
        num_kv_heads=32,
        default_max_positions=2048,
        default_vocab_size=102_400,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qk_norm": "head"},
        layer={"norm_place": "post"},
    )
    return without_ropes_in_full_layers(spec) if has_windows(config) else spec


def has_windows(config: ConfigReader) -> bool:
    """Return whether some layers have windows; null says that none has."""
    return not config.has("sliding_window") or config.get("sliding_window", None) is not None


def read_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """Return each layer's window. A pattern in letters (LLLG) stands beside layer_types, which say the same.

    Raises UnknownArchitecture for types or a pattern that are not understood.
    """
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    if not has_windows(config):
        config.get("sliding_window_pattern", None)  # of no windows
        return read_typed_windows(config, None, default_types=["full_attention"] * num_layers)
    window, every = config.get_positive_int("sliding_window", 4096), config.get("sliding_window_pattern", 4)
    if not (isinstance(every, str) and config.get("layer_types", None) is not None):
        every = config.get_positive_int("sliding_window_pattern", 4)
    return read_typed_windows(config, window, full_every=every if isinstance(every, int) else None)


ARCHITECTURE = DecoderFamily(_read, named(NORMS_BEHIND))
