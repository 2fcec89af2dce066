"""The table of encoders that can be loaded, by model_type, and the decoders that can be pooled."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxserve.models import bert, distilbert, registry, roberta
from jaxserve.models.architecture import Architecture
from jaxserve.models.encoder_family import EncoderFamily
from jaxserve.models.pooled_decoder import PooledDecoder

ENCODERS: Mapping[str, EncoderFamily] = {  # by model_type
    "bert": bert.ARCHITECTURE,
    "distilbert": distilbert.ARCHITECTURE,
    "roberta": roberta.ARCHITECTURE,
    "xlm-roberta": roberta.XLM_ARCHITECTURE,
}
CLASSIFIER, HEADLESS, CAUSAL = "ForSequenceClassification", "Model", "ForCausalLM"


def is_encoder(hf_config: Mapping[str, Any]) -> bool:
    """Return whether config.json is one of an encoder."""
    return hf_config.get("model_type") in ENCODERS


def is_headless(hf_config: Mapping[str, Any]) -> bool:
    """Return whether config.json is one of a decoder that was saved without its logits."""
    return any(
        name not in registry.ARCHITECTURES and _to_causal(name) in registry.ARCHITECTURES and name.endswith(HEADLESS)
        for name in hf_config.get("architectures") or []
    )


def find_pooled(
    hf_config: Mapping[str, Any], num_labels: int | None, *, needs_head: bool = False
) -> EncoderFamily | PooledDecoder:
    """Return the architecture for this config.json of a model that pools.

    num_labels   outputs of the model's score head; None: it is not used
    needs_head   the logits of some tokens are computed

    Raises UnknownArchitecture if there is none.
    """
    if is_encoder(hf_config):
        return replace(ENCODERS[hf_config["model_type"]], num_labels=num_labels)
    names = [_to_causal(name) for name in hf_config.get("architectures") or []]
    decoder: Architecture = registry.find_architecture({**hf_config, "architectures": names})
    return PooledDecoder(decoder, num_labels, needs_head)


def _to_causal(name: str) -> str:
    """Return the name of the model with logits, which the table of decoders has."""
    for suffix in (CLASSIFIER, HEADLESS):
        if name.endswith(suffix):
            return name.removesuffix(suffix) + CAUSAL
    return name
