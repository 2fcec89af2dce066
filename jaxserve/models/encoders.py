"""The table of encoders that can be loaded, by model_type, and the decoders that can be pooled."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxserve.models import bert, distilbert, modernbert, registry, roberta
from jaxserve.models.architecture import Architecture
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.dense_params import DenseModule
from jaxserve.models.encoder_family import EncoderFamily
from jaxserve.models.pooled_decoder import PooledDecoder
from jaxserve.models.pooling_spec import PoolingKind

ENCODERS: Mapping[str, EncoderFamily | PooledDecoder] = {  # by model_type
    "bert": bert.ARCHITECTURE,
    "distilbert": distilbert.ARCHITECTURE,
    "modernbert": modernbert.ARCHITECTURE,
    "roberta": roberta.ARCHITECTURE,
    "xlm-roberta": roberta.XLM_ARCHITECTURE,
}
CLASSIFIER, HEADLESS, CAUSAL = "ForSequenceClassification", "Model", "ForCausalLM"


def is_encoder(hf_config: Mapping[str, Any]) -> bool:
    """Return whether config.json is one of an encoder, or of a decoder whose tokens see those behind them, too."""
    return hf_config.get("model_type") in ENCODERS or hf_config.get("use_bidirectional_attention") is True


def find_score_pooling(hf_config: Mapping[str, Any]) -> PoolingKind:
    """Return the pooling that a score head reads: as config.json says, of encoders the first token, else the last.

    Raises UnknownArchitecture for another than those of transformers.
    """
    if hf_config.get("model_type") not in ENCODERS:
        return "last"
    config = ConfigReader(hf_config)
    config.require("classifier_pooling", "cls", "mean", None)
    return config.get("classifier_pooling", "cls")


def is_headless(hf_config: Mapping[str, Any]) -> bool:
    """Return whether config.json is one of a decoder that was saved without its logits."""
    return any(
        name not in registry.ARCHITECTURES and _to_causal(name) in registry.ARCHITECTURES and name.endswith(HEADLESS)
        for name in hf_config.get("architectures") or []
    )


def find_pooled(
    hf_config: Mapping[str, Any],
    num_labels: int | None,
    modules: tuple[DenseModule, ...] = (),
    *,
    needs_head: bool = False,
) -> EncoderFamily | PooledDecoder:
    """Return the architecture for this config.json of a model that pools.

    num_labels   outputs of the model's score head; None: it is not used
    modules      dense layers over pooled vectors, where it is not
    needs_head   the logits of some tokens are computed

    Raises UnknownArchitecture if there is none.
    """
    encoder = ENCODERS.get(str(hf_config.get("model_type")))
    if encoder is not None:
        return replace(encoder, num_labels=num_labels, dense_modules=modules)
    names = [_to_causal(name) for name in hf_config.get("architectures") or []]
    decoder: Architecture = registry.find_architecture({**hf_config, "architectures": names})
    return PooledDecoder(decoder=decoder, num_labels=num_labels, dense_modules=modules, needs_head=needs_head)


def _to_causal(name: str) -> str:
    """Return the name of the model with logits, which the table of decoders has: Gemma3TextModel is Gemma3's."""
    for suffix in (CLASSIFIER, HEADLESS):
        if name.endswith(suffix):
            return name.removesuffix(suffix).removesuffix("Text") + CAUSAL
    return name
