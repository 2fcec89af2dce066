"""Tiny tokenizers made for tests: byte-level BPE, SentencePiece-like with byte fallback, and plain words."""

import json
from pathlib import Path

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordLevel

from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.tokenizer_parts import TokenizerParts

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a little girl, and she was happy."
] * 3
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level_backend() -> Backend:
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return backend


def byte_fallback_backend() -> Backend:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzHT.", "▁t", "he", "▁the", "lo", "▁H"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("l", "o"), ("▁", "H")]
    bpe = BPE({piece: id for id, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    backend = Backend(bpe)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:3]])
    return backend


def words_backend() -> Backend:
    """No decoder: words joined by spaces."""
    words = {word: id for id, word in enumerate(["[UNK]", "the", "quick", "fox", "jumps"])}
    backend = Backend(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def make(backend: Backend, eos: str | None = None) -> Tokenizer:
    named = {"eos_token": eos} if eos else {}
    return Tokenizer(TokenizerParts(backend, named, backend.token_to_id(eos) if eos else None, None, {}))


def write_json(directory: Path, name: str, value: object) -> None:
    (directory / name).write_text(json.dumps(value), encoding="utf-8")
