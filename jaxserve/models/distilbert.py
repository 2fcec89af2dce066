"""DistilBERT: BERT without token types, under names of its own."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import ACTIVATION_NAMES
from jaxserve.models.encoder_family import EncoderFamily
from jaxserve.models.encoder_spec import EncoderSpec

IGNORED = ("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_")  # of training alone


def _read(config: ConfigReader) -> EncoderSpec:
    config.require("model_type", "distilbert")
    config.ignore(*IGNORED)
    config.require("activation", "gelu", "relu", None)
    return EncoderSpec(
        architecture_name="DistilBertModel",
        vocab_size=config.get_positive_int("vocab_size", 30_522),
        width=config.get_positive_int("dim", 768),
        num_layers=config.get_positive_int("n_layers", 6, MAX_LAYERS),
        num_heads=config.get_positive_int("n_heads", 12),
        hidden=config.get_positive_int("hidden_dim", 4 * 768),
        activation=ACTIVATION_NAMES[config.get("activation", "gelu")],
        norm_eps=1e-12,
        num_positions=config.get_positive_int("max_position_embeddings", 512),
    )


ARCHITECTURE = EncoderFamily(
    read=_read,
    prefix="distilbert.",
    embeddings={
        "embed": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
    },
    layer="transformer.layer.{}.",
    modules={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "mlp_norm": "output_layer_norm",
    },
    head=("pre_classifier", "classifier"),
    head_activation="relu",
)
