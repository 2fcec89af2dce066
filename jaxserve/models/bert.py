"""BERT: learned positions, two types of tokens, and a norm behind each sum (arXiv 1810.04805)."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_activation
from jaxserve.models.encoder_family import EncoderFamily
from jaxserve.models.encoder_spec import EncoderSpec

EMBEDDINGS = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
MODULES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def read_bert(
    config: ConfigReader, *, name: str, model_type: str, vocab_size: int = 30_522, first_position: int = 0
) -> EncoderSpec:
    """Return the values of BERT's keys, with the defaults of transformers' config class."""
    config.require("model_type", model_type)
    config.require("position_embedding_type", "absolute", None)
    config.require("hidden_act", "gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu", None)
    return EncoderSpec(
        architecture_name=name,
        vocab_size=config.get_positive_int("vocab_size", vocab_size),
        width=config.get_positive_int("hidden_size", 768),
        num_layers=config.get_positive_int("num_hidden_layers", 12, MAX_LAYERS),
        num_heads=config.get_positive_int("num_attention_heads", 12),
        hidden=config.get_positive_int("intermediate_size", 3072),
        activation=read_activation(config, default="gelu"),
        norm_eps=config.get_positive_float("layer_norm_eps", 1e-12),
        num_positions=config.get_positive_int("max_position_embeddings", 512),
        first_position=first_position,
        num_token_types=config.get_positive_int("type_vocab_size", 2),
    )


def _read(config: ConfigReader) -> EncoderSpec:
    return read_bert(config, name="BertModel", model_type="bert")


ARCHITECTURE = EncoderFamily(
    read=_read,
    prefix="bert.",
    embeddings=EMBEDDINGS,
    layer="encoder.layer.{}.",
    modules=MODULES,
    head=("pooler.dense", "classifier"),
)
