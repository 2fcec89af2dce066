"""nanochat: norms without numbers, also of the embedding and of heads that have turned back, squares without a gate."""

from dataclasses import replace

from jaxserve.layers.norms import NormSpec
from jaxserve.layers.rope import LinearScaling, RopeSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import (
    list_ropes,
    read_decoder_spec,
    read_nullable_float,
    uniform_windows,
    with_ropes,
)
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    norm = NormSpec(config.get_positive_float("rms_norm_eps", 1e-6), has_scale=False)
    spec = read_decoder_spec(
        config,
        architecture_name="NanoChatForCausalLM",
        model_type="nanochat",
        windows=uniform_windows(config, None),
        default_activation="relu2",
        default_max_positions=2048,
        default_vocab_size=50_304,
        norm=norm,
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head", "norms_after_rope": True},
        mlp={"is_gated": False},
        decoder={
            "embedding_norm": norm,
            "logits_softcap": read_nullable_float(config, "final_logit_softcapping", 15.0),
        },
    )
    return with_ropes(spec, tuple(_turn_back(config, rope) for rope in list_ropes(spec)))


def _turn_back(config: ConfigReader, rope: RopeSpec | None) -> RopeSpec:
    """Return a rotation by the negative angles."""
    assert rope is not None
    match rope.scaling:
        case None:
            return replace(rope, scaling=LinearScaling(-1.0))
        case LinearScaling(factor):
            return replace(rope, scaling=LinearScaling(-factor))
    raise config.unsupported("rope_parameters", config.get("rope_parameters", None), "the rope_type default or linear")


ARCHITECTURE = DecoderFamily(_read, named({"up": "mlp.fc1", "down": "mlp.fc2"}))
