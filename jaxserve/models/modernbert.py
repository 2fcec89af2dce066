"""ModernBERT (arXiv 2412.13663): an encoder of rotated, pre-normed layers with gated feed-forward blocks.

Every third layer sees all tokens, the others those of a window around each.
"""

from dataclasses import replace

from jaxserve.layers.dense import DenseSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import ACTIVATION_NAMES, read_decoder_spec, read_typed_windows, with_typed_ropes
from jaxserve.models.dense_params import DenseStems
from jaxserve.models.family import DecoderFamily, TensorNames
from jaxserve.models.origins import Layout
from jaxserve.models.pooled_decoder import PooledDecoder
from jaxserve.models.rope_config import ThetaKey, read_typed_ropes
from jaxserve.models.spec import DecoderSpec

LAYOUT: Layout = {
    **dict.fromkeys(("query", "key", "value"), "attn.Wqkv"),
    **dict.fromkeys(("gate", "up"), "mlp.Wi"),
    "output": "attn.Wo",
    "down": "mlp.Wo",
    "attention_norm": "attn_norm",
    "mlp_norm": "mlp_norm",
}
NAMES = TensorNames(
    (LAYOUT,),
    embedding="model.embeddings.tok_embeddings",
    embedding_norm="model.embeddings.norm",
    final_norm="model.final_norm",
)
THETAS = {
    "full_attention": ThetaKey("global_rope_theta", 160_000.0),
    "sliding_attention": ThetaKey("local_rope_theta", 10_000.0),
}
HEAD_KEYS = ("classifier_activation", "classifier_bias", "classifier_pooling")
UNUSED_KEYS = (  # of training, of the head that fills in masked tokens, and of kernels; transformers reads no other eps
    *("cls_token_id", "decoder_bias", "deterministic_flash_attn", "initializer_cutoff_factor", "layer_norm_eps"),
    *("mlp_dropout", "position_embedding_type", "reference_compile", "repad_logits_with_grad", "sparse_prediction"),
    "sparse_pred_ignore_index",
)


def _read(config: ConfigReader) -> DecoderSpec:
    config.ignore(*HEAD_KEYS, *UNUSED_KEYS)
    every = config.get_positive_int("global_attn_every_n_layers", 3)
    half = config.get_whole_number("local_attention", 128) // 2
    ropes, bias = read_typed_ropes(config, THETAS, default_max_positions=8192), config.get_bool("attention_bias", False)
    norm = _read_norm(config)
    spec = read_decoder_spec(
        config,
        architecture_name="ModernBertModel",
        model_type="modernbert",
        windows=read_typed_windows(config, half + 1, full_every=every, is_first_full=True),
        activation_key="hidden_activation",
        default_activation="gelu",
        rope=ropes["full_attention"],
        default_max_positions=8192,
        default_vocab_size=50_368,
        tie_embeddings=True,
        norm=norm,
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": config.get_bool("mlp_bias", False)},
        decoder={"embedding_norm": norm, "is_bidirectional": True},
    )
    first, *others = with_typed_ropes(spec, ropes).layers
    return replace(spec, layers=(replace(first, skips_attention_norm=True), *others))


def _read_norm(config: ConfigReader) -> NormSpec:
    return NormSpec(config.get_positive_float("norm_eps", 1e-5), "layer", has_bias=config.get_bool("norm_bias", False))


def _read_head(config: ConfigReader, spec: DecoderSpec, num_labels: int) -> tuple[DenseSpec, ...]:
    config.require("classifier_activation", *ACTIVATION_NAMES, None)
    activation = ACTIVATION_NAMES[config.get("classifier_activation", "gelu")]
    bias, width = config.get_bool("classifier_bias", False), spec.width
    dense = DenseSpec(width_in=width, width_out=width, bias=bias, activation=activation, norm=_read_norm(config))
    return (dense, DenseSpec(width_in=width, width_out=num_labels))


ARCHITECTURE = PooledDecoder(
    decoder=DecoderFamily(_read, NAMES, unread=("head.*", "decoder.*", "classifier.*")),
    read_head=_read_head,
    head=(DenseStems(("head.dense",), ("head.norm",)), DenseStems(("classifier",))),
)
