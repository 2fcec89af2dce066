"""One tiny tokenizer in each form of tokenizer files; each writer fills a directory."""

import base64
import io
import json
from pathlib import Path

import gguf
import sentencepiece

from jaxserve.text.tiktoken_files import TEKKEN_SPECIALS
from tests.text.tiny_tokenizers import CORPUS, byte_level_backend, write_json

MERGED = [b"th", b"the", b" the", b"qu", b"ick", b"ck", b" qu", b"\xf0\x9f", b"\xe2\x82\xac"]
WORDS = r"\s?\p{L}+|\s?\p{N}|[^\s\p{L}\p{N}]+|\s+"
CONTROL = "<|im_end|>"


def ranks(first: int = 0) -> dict[bytes, int]:
    """A byte vocabulary with a few joint tokens, ranked in their order."""
    tokens = [*(bytes([byte]) for byte in range(256)), *MERGED]
    return {token: first + index for index, token in enumerate(tokens)}


def trained(**options: object) -> bytes:
    """A SentencePiece model of its own library, trained on the tiny corpus."""
    out = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 340, "hard_vocab_limit": False} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=out, minloglevel=2, **settings
    )
    return out.getvalue()


def write_tokenizer_json(path: Path) -> None:
    byte_level_backend().save(str(path / "tokenizer.json"))


def write_sentencepiece(path: Path) -> None:
    as_it_is = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    (path / "tokenizer.model").write_bytes(trained(control_symbols=[CONTROL], **as_it_is))


def write_tekken(path: Path) -> None:
    num_special = len(TEKKEN_SPECIALS) + 4
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in ranks().items()]
    size = {"default_num_special_tokens": num_special, "default_vocab_size": num_special + len(vocab) - 1}
    write_json(path, "tekken.json", {"config": {"pattern": WORDS, **size}, "vocab": vocab})


def write_tiktoken(path: Path, name: str = "tokenizer.model") -> None:
    lines = [base64.b64encode(token) + f" {rank}".encode() for token, rank in ranks().items()]
    (path / name).write_bytes(b"\n".join(lines) + b"\n")
    write_json(path, "config.json", {"model_type": "qwen2"})
    added = {str(len(lines) + 1): {"content": CONTROL, "special": True}}
    write_json(path, "tokenizer_config.json", {"eos_token": CONTROL, "added_tokens_decoder": added})


def write_vocabulary_and_merges(path: Path) -> None:
    model = json.loads(byte_level_backend().to_str())["model"]
    write_json(path, "vocab.json", model["vocab"])
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    write_json(path, "config.json", {"model_type": "qwen2"})
    write_json(path, "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": CONTROL})


def write_gguf(path: Path) -> None:
    model = json.loads(byte_level_backend().to_str())["model"]
    writer = gguf.GGUFWriter(path / "model.gguf", "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(model["vocab"]))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


FORMS = {
    "tokenizer.json": write_tokenizer_json,
    "SentencePiece": write_sentencepiece,
    "tekken": write_tekken,
    "tiktoken": write_tiktoken,
    "vocabulary and merges": write_vocabulary_and_merges,
    "GGUF": write_gguf,
}
