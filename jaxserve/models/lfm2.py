"""LFM2: short convolutions in most layers, attention in the others."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.family import DecoderFamily
from jaxserve.models.short_conv_values import read_short_conv, short_conv_names
from jaxserve.models.spec import DecoderSpec

UNUSED = ("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init")


def _read(config: ConfigReader) -> DecoderSpec:
    config.ignore(*UNUSED)
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    width, attended = config.get_positive_int("hidden_size"), config.get("full_attn_idxs", list(range(num_layers)))
    # Keys of the first files that say again what others say, or have one value that fits.
    config.require_each({"block_dim": width, "conv_dim": width, "conv_dim_out": width})
    config.require_each({"block_use_swiglu": True, "use_pos_enc": True})
    config.require("block_norm_eps", config.get("norm_eps", 1e-5), None)
    config.require("num_heads", config.get("num_attention_heads"), None)
    config.require("theta", config.get("rope_theta", 1_000_000.0), None)
    return read_short_conv(
        config,
        architecture_name="Lfm2ForCausalLM",
        model_type="lfm2",
        default_types=["full_attention" if index in attended else "conv" for index in range(num_layers)],
        hidden=_read_hidden(config),
    )


def _read_hidden(config: ConfigReader) -> int:
    """Return the width of feed-forward blocks: two thirds of the one given, in whole multiples, unless it is final."""
    hidden = config.get_positive_int("block_ff_dim", config.get("intermediate_size", 12_288))
    factor = config.get_positive_float("block_ffn_dim_multiplier", 1.0)
    if not config.get_bool("block_auto_adjust_ff_dim", True):
        config.ignore("block_multiple_of")
        return hidden
    multiple = config.get_positive_int("block_multiple_of", 256)
    return -(-int(factor * int(2 * hidden / 3)) // multiple) * multiple


ARCHITECTURE = DecoderFamily(_read, short_conv_names())
