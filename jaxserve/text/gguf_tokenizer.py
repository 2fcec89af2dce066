"""Build a tokenizer from the metadata of a GGUF file: vocabulary, merges or scores, token types, chat template.

Three values of tokenizer.ggml.model are supported: `gpt2`, byte-level BPE with merges and the pre-tokenization of
tokenizer.ggml.pre; `llama`, SentencePiece BPE with scores and byte fallback; and `bert`, WordPiece. Others are refused.
Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers
from tokenizers.models import BPE

from jaxserve.errors import BadCheckpoint
from jaxserve.text.gguf_wordpiece import create_wordpiece, set_pair_processor
from jaxserve.text.pretokenizers import PRE_TOKENIZATIONS, PreTokenization
from jaxserve.text.sentencepiece_model import (
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    create_decoder,
    rank_merges,
)
from jaxserve.text.tokenizer_parts import TokenizerParts, set_post_processor
from jaxserve.weights.gguf_header import read_header

_NAMED_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}


class GgufVocabulary:
    """The checked keys tokenizer.ggml.*.

    tokens   The pieces by id.
    types    The token types by id; UNUSED for tokens that only pad the vocabulary to the network's width.
    ids      The ids by piece, without unused tokens.
    """

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self._metadata = metadata
        self._path = path
        tokens = self.array("tokens", str)
        types = self.array("token_type", int) if self.get("token_type") is not None else [NORMAL] * len(tokens)
        if len(types) != len(tokens):
            raise self.error(f"token_type has {len(types)} entries for {len(tokens)} tokens")
        self.tokens: list[str] = tokens
        self.types: list[int] = [UNUSED if tokens[i] == f"[PAD{i}]" else kind for i, kind in enumerate(types)]
        self.ids = {piece: i for i, piece in enumerate(tokens) if self.types[i] != UNUSED}

    def error(self, what: str) -> BadCheckpoint:
        """Return the exception for a defect of this tokenizer."""
        return BadCheckpoint(f"The tokenizer in {self._path.name}: {what}.")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of tokenizer.ggml.KEY."""
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def array(self, key: str, kind: type) -> list[Any]:
        """Return the list tokenizer.ggml.KEY. Raises BadCheckpoint unless it is a list of this type."""
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self.error(f"tokenizer.ggml.{key} is missing or not a list of {kind.__name__}")
        return value

    def token_named(self, name: str) -> tuple[str, int] | None:
        """Return the piece and id of the token that, for example, "eos_token_id" names; None if there is none."""
        id = self.get(name)
        if not isinstance(id, int) or not 0 <= id < len(self.tokens):
            return None
        return self.tokens[id], id

    def pieces_of_type(self, *kinds: int) -> list[str]:
        """Return the pieces of these token types."""
        return [self.tokens[i] for i, kind in enumerate(self.types) if kind in kinds]


def read_gguf(path: Path) -> TokenizerParts:
    """Read the tokenizer and templates from a file's metadata.

    Raises BadCheckpoint with the name of what is missing or not supported.
    """
    return build_tokenizer(read_header(path).metadata, path)


def build_tokenizer(metadata: dict[str, Any], path: Path) -> TokenizerParts:
    """Build the tokenizer from metadata; `path` is for error texts.

    Raises BadCheckpoint with the name of what is missing or not supported.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama", "bert"):
        raise BadCheckpoint(
            f"{path.name} has a tokenizer of the kind {str(model)[:200]!r}; known are 'gpt2', 'llama' and 'bert'."
            " Use a directory with tokenizer.json, named by --tokenizer."
        )
    vocabulary = GgufVocabulary(metadata, path)
    if model == "bert":
        backend = _wordpiece(vocabulary)
        _add_tokens(backend, vocabulary)
        _surround(backend, vocabulary)
        return _make_parts(backend, vocabulary, metadata)
    backend, adds_bos = _byte_level(vocabulary) if model == "gpt2" else (_sentencepiece(vocabulary), True)
    _add_tokens(backend, vocabulary)
    bos, eos = vocabulary.token_named("bos_token_id"), vocabulary.token_named("eos_token_id")
    with_bos = bos and vocabulary.get("add_bos_token", adds_bos)
    with_eos = eos and vocabulary.get("add_eos_token", False)
    set_post_processor(backend, bos[0] if bos and with_bos else None, eos[0] if eos and with_eos else None)
    return _make_parts(backend, vocabulary, metadata)


def _make_parts(backend: tokenizers.Tokenizer, vocabulary: GgufVocabulary, metadata: dict[str, Any]) -> TokenizerParts:
    named = {name: token for name, key in _NAMED_IDS.items() if (token := vocabulary.token_named(key))}
    bos, eos = named.get("bos_token"), named.get("eos_token")
    return TokenizerParts(
        backend=backend,
        special_tokens={name: piece for name, (piece, _) in named.items()},
        eos_token_id=eos[1] if eos else None,
        bos_token_id=bos[1] if bos else None,
        chat_templates=_chat_templates(metadata),
    )


def _wordpiece(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    unknown = vocabulary.token_named("unknown_token_id") or ("[UNK]", 0)
    return create_wordpiece(vocabulary.tokens, vocabulary.types, unknown[0])


def _surround(backend: tokenizers.Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Make `backend` put BERT's tokens around texts. Raises BadCheckpoint if they are not named."""
    first = vocabulary.token_named("cls_token_id") or vocabulary.token_named("bos_token_id")
    separator = vocabulary.token_named("seperator_token_id") or vocabulary.token_named("eos_token_id")
    if first is None or separator is None:
        raise vocabulary.error("tokenizer.ggml.cls_token_id or seperator_token_id is missing")
    set_pair_processor(backend, first, separator)


def _byte_level(vocabulary: GgufVocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    rule = _pre_tokenization(vocabulary)
    merges = [tuple(merge.split(" ", 1)) for merge in vocabulary.array("merges", str)]
    backend = tokenizers.Tokenizer(_bpe(vocabulary, merges, ignore_merges=rule.ignore_merges))
    if rule.create_normalizer is not None:
        backend.normalizer = rule.create_normalizer()
    backend.pre_tokenizer = rule.create_pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend, rule.adds_bos


def _pre_tokenization(vocabulary: GgufVocabulary) -> PreTokenization:
    name = vocabulary.get("pre", "default")
    if name not in PRE_TOKENIZATIONS:
        raise vocabulary.error(
            f"tokenizer.ggml.pre is {str(name)[:200]!r}; known are {', '.join(sorted(PRE_TOKENIZATIONS))}. Use a "
            "directory with tokenizer.json, named by --tokenizer"
        )
    return PRE_TOKENIZATIONS[name]


def _bpe(vocabulary: GgufVocabulary, merges: list[Any], **options: Any) -> BPE:
    try:
        return BPE(vocab=vocabulary.ids, merges=merges, **options)
    except Exception as error:  # the library raises plain Exception
        raise vocabulary.error(f"vocabulary and merges do not fit together ({str(error)[:200]})") from error


def _sentencepiece(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    unknown = vocabulary.token_named("unknown_token_id") or (vocabulary.pieces_of_type(UNKNOWN) or [None])
    bpe = _bpe(vocabulary, _merges_by_score(vocabulary), unk_token=unknown[0], fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(bpe)
    with_prefix = vocabulary.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if with_prefix else spaces
    backend.decoder = create_decoder(strips_prefix=with_prefix)
    return backend


def _merges_by_score(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    scores = vocabulary.array("scores", float)
    if len(scores) != len(vocabulary.tokens):
        raise vocabulary.error(f"scores has {len(scores)} entries for {len(vocabulary.tokens)} tokens")
    return rank_merges({piece: id for piece, id in vocabulary.ids.items() if vocabulary.types[id] == NORMAL}, scores)


def _add_tokens(backend: tokenizers.Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Add control tokens as special tokens, and user-defined ones as ordinary tokens that are never split."""
    backend.add_special_tokens(
        [_added_token(piece, special=True) for piece in vocabulary.pieces_of_type(CONTROL, UNKNOWN)]
    )
    backend.add_tokens([_added_token(piece, special=False) for piece in vocabulary.pieces_of_type(USER_DEFINED)])


def _added_token(piece: str, *, special: bool) -> AddedToken:
    return AddedToken(piece, special=special, normalized=False)


def _chat_templates(metadata: dict[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    templates = {key.removeprefix(prefix).lstrip("."): text for key, text in metadata.items() if key.startswith(prefix)}
    return {name or "default": text for name, text in templates.items() if isinstance(text, str)}
