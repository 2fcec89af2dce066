"""RoBERTa and XLM-RoBERTa: BERT whose positions count behind the padding id, and without a second type of tokens."""

from functools import partial

from jaxserve.models.bert import EMBEDDINGS, MODULES, read_bert
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.encoder_family import EncoderFamily
from jaxserve.models.encoder_spec import EncoderSpec


def _read(config: ConfigReader, *, name: str, model_type: str, vocab_size: int) -> EncoderSpec:
    pad_id = config.get_whole_number("pad_token_id", 1)
    return read_bert(config, name=name, model_type=model_type, vocab_size=vocab_size, first_position=pad_id + 1)


def _family(name: str, model_type: str, vocab_size: int) -> EncoderFamily:
    return EncoderFamily(
        read=partial(_read, name=name, model_type=model_type, vocab_size=vocab_size),
        prefix="roberta.",
        embeddings=EMBEDDINGS,
        layer="encoder.layer.{}.",
        modules=MODULES,
        head=("classifier.dense", "classifier.out_proj"),
    )


ARCHITECTURE = _family("RobertaModel", "roberta", 50_265)
XLM_ARCHITECTURE = _family("XLMRobertaModel", "xlm-roberta", 250_002)
