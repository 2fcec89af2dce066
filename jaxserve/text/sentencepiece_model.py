"""Read tokenizer.model, SentencePiece's file: pieces with scores, and the normalization of texts.

Message and field numbers: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import MAX_TOKENIZER_BYTES, read_model_file
from jaxserve.weights.protobuf import as_float, as_int, as_message, as_text, iter_fields

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE_MODEL = 1, 2
SPACE = "▁"
# Field numbers of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec, as far as they determine ids.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX_SPACE = 3, 24
_NAMED_IDS = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2), "pad_token": (43, -1)}
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5


@dataclass(slots=True)
class SentencePieceModel:
    """A parsed SentencePiece model.

    pieces, scores, types   One entry for each id.
    model_type              UNIGRAM or BPE_MODEL.
    named_ids               Role ("eos_token") → id; a negative id means that the model has no such token.
    charsmap                SentencePiece's compiled normalization table, or b"".
    has_dummy_prefix        A space is added in front of a text.
    removes_extra_spaces    Spaces at the ends of a text, and repeated ones, are removed.
    """

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    model_type: int = UNIGRAM
    named_ids: dict[str, int] = field(default_factory=dict)
    charsmap: bytes = b""
    has_dummy_prefix: bool = True
    removes_extra_spaces: bool = True

    def token_roles(self) -> dict[str, str]:
        """Return the pieces that have a role ("eos_token") by role."""
        return {name: self.pieces[id] for name, id in self.named_ids.items() if 0 <= id < len(self.pieces)}

    def pieces_of_type(self, *kinds: int) -> list[str]:
        """Return the pieces of these types."""
        return [piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind in kinds]


def parse_model(data: bytes) -> SentencePieceModel:
    """Parse the bytes of a SentencePiece model. Raises ValueError if they are none, or need what is not supported."""
    model = SentencePieceModel()
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in iter_fields(data):
        if number == _PIECES:
            entry = dict(iter_fields(as_message(value)))
            model.pieces.append(as_text(entry.get(_PIECE, memoryview(b""))))
            model.scores.append(as_float(entry[_SCORE]) if _SCORE in entry else 0.0)
            model.types.append(as_int(entry.get(_TYPE, NORMAL)))
        elif number == _TRAINER:
            trainer = dict(iter_fields(as_message(value)))
        elif number == _NORMALIZER:
            normalizer = dict(iter_fields(as_message(value)))
    if not model.pieces:
        raise ValueError("it has no pieces")
    model.model_type = as_int(trainer.get(_MODEL_TYPE, UNIGRAM))
    if model.model_type not in (UNIGRAM, BPE_MODEL):
        raise ValueError("its pieces are whole words or single characters; BPE and unigram models are read")
    if as_int(trainer.get(_SUFFIX_SPACE, 0)) or not as_int(normalizer.get(_ESCAPE_SPACES, 1)):
        raise ValueError("it writes spaces in a way that is not supported (as suffixes, or not escaped)")
    model.named_ids = {name: as_int(trainer.get(number, id)) for name, (number, id) in _NAMED_IDS.items()}
    model.charsmap = bytes(as_message(normalizer.get(_CHARSMAP, memoryview(b""))))
    model.has_dummy_prefix = bool(as_int(normalizer.get(_DUMMY_PREFIX, 1)))
    model.removes_extra_spaces = bool(as_int(normalizer.get(_REMOVE_SPACES, 1)))
    return model


def read_sentencepiece(
    path: Path, names: Mapping[int, str], *, legacy: bool
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Return a backend that gives SentencePiece's ids, and the pieces that have a role ("eos_token" → "</s>").

    names    Id → text, from added_tokens_decoder of tokenizer_config.json, which may rename a placeholder piece.
    legacy   A space is added before every part of a text between special tokens, not only at the beginning.

    Raises BadCheckpoint if the file is no SentencePiece model, or one of a kind that is not supported.
    """
    try:
        model = parse_model(read_model_file(path, MAX_TOKENIZER_BYTES))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path.name} in {path.parent} is no SentencePiece model: {error}.") from error
    known = set(model.pieces)
    for id, name in names.items():
        if id < len(model.pieces) and name not in known and model.types[id] in (CONTROL, USER_DEFINED, UNUSED):
            model.pieces[id] = name
            model.types[id] = CONTROL
    try:
        backend = build_backend(model, legacy=legacy)
    except Exception as error:  # the library raises plain Exception
        raise BadCheckpoint(f"{path.name} in {path.parent} cannot be used: {str(error)[:200]}.") from error
    return backend, model.token_roles()


def build_backend(model: SentencePieceModel, *, legacy: bool = True) -> tokenizers.Tokenizer:
    """Return the backend of a parsed model; control pieces are special tokens, user-defined ones are never split."""
    has_bytes = BYTE in model.types
    if model.model_type == UNIGRAM:
        unk_id = model.named_ids["unk_token"]
        scored = list(zip(model.pieces, model.scores, strict=True))
        backend = tokenizers.Tokenizer(Unigram(scored, unk_id if unk_id >= 0 else None, byte_fallback=has_bytes))
    else:
        usable = {piece: id for id, piece in enumerate(model.pieces) if model.types[id] == NORMAL}
        backend = tokenizers.Tokenizer(
            BPE(
                vocab={piece: id for id, piece in enumerate(model.pieces) if model.types[id] != UNUSED},
                merges=rank_merges(usable, model.scores),
                unk_token=model.token_roles().get("unk_token"),
                fuse_unk=True,
                byte_fallback=has_bytes,
                ignore_merges=USER_DEFINED in model.types,
            )
        )
    backend.normalizer = _normalizer(model, legacy)
    cuts = _pre_tokenizers(model, legacy)
    if cuts:
        backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = create_decoder(strips_prefix=model.has_dummy_prefix, has_bytes=has_bytes)
    specials = model.pieces_of_type(CONTROL, UNKNOWN)
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in specials])
    return backend


def _normalizer(model: SentencePieceModel, legacy: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.removes_extra_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.has_dummy_prefix and legacy:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _pre_tokenizers(model: SentencePieceModel, legacy: bool) -> list[pre_tokenizers.PreTokenizer]:
    """Return the pre-tokenizers: user-defined pieces, the longest first, are split off.

    They are not added tokens, because the text after one would get a space in front.
    """
    cuts: list[pre_tokenizers.PreTokenizer] = []
    if model.has_dummy_prefix and not legacy:
        cuts.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False))
    if whole := model.pieces_of_type(USER_DEFINED):
        pattern = "|".join(re.escape(piece) for piece in sorted(whole, key=len, reverse=True))
        cuts.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    return cuts


def create_decoder(*, strips_prefix: bool, has_bytes: bool = True) -> decoders.Decoder:
    """Return the decoder of SentencePiece pieces; strips_prefix: the space in front of a text is removed."""
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    steps += [decoders.ByteFallback()] if has_bytes else []
    steps += [decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if strips_prefix else []
    return decoders.Sequence(steps)


def rank_merges(ids: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return BPE merges for SentencePiece's rule that the two neighbors with the best joint piece are joined first.

    These are all splits of every piece into two pieces, the best piece first.

    ids: the pieces of ordinary text.
    """
    merges: list[tuple[str, str]] = []
    for piece in sorted(ids, key=lambda piece: (-scores[ids[piece]], ids[piece])):
        first = len(merges)
        for cut in range(1, len(piece)):
            if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids:
                merges.append((left, right))
        if len(merges) > first + 1:
            merges[first:] = sorted(merges[first:], key=lambda split: (ids[split[0]], ids[split[1]]))
    return merges
