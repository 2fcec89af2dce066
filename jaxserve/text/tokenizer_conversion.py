"""Build the tokenizer of a directory without tokenizer.json from other files.

tekken.json, tiktoken files and SentencePiece models are converted with the `tokenizers` library alone; vocab.json with
merges.txt is converted by transformers, which knows the pre-tokenization of each family. No code of the checkpoint is
run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxserve.errors import BadCheckpoint
from jaxserve.text.added_tokens import SPECIAL_TOKEN_NAMES, AddedTokens
from jaxserve.text.sentencepiece_model import read_sentencepiece
from jaxserve.text.tiktoken_files import is_tiktoken_file, read_tekken, read_tiktoken
from jaxserve.text.tokenizer_parts import read_json, set_post_processor

READ = (
    "tokenizer.json, tekken.json, tokenizer.model (SentencePiece or tiktoken), *.tiktoken, vocab.json with merges.txt"
)
MAX_GAP = 4096  # ids that a vocabulary may leave unused before an added token


def convert(path: Path, config: Mapping[str, Any], added: AddedTokens) -> tokenizers.Tokenizer:
    """Return the backend of the tokenizer in `path`, and add the names that its files give to tokens to `added`.

    config: tokenizer_config.json.

    Raises BadCheckpoint if there is no tokenizer, or one that cannot be read.
    """
    model_config = read_json(path / "config.json")
    names = {id: token["content"] for id, token in added.by_id.items()}
    if (tekken := path / "tekken.json").is_file():
        backend, roles = read_tekken(tekken)
    elif (file := _ranked_file(path)) is not None:
        backend, roles = read_tiktoken(file, model_config.get("model_type"), names)
    elif (file := _sentencepiece_file(path)) is not None:
        backend, roles = read_sentencepiece(file, names, legacy=config.get("legacy") is not False)
    elif (path / "vocab.json").is_file():
        backend, roles = _through_transformers(path, model_config)
        added.named = {name: {"content": token} for name, token in roles.items()} | added.named
        return backend
    else:
        raise BadCheckpoint(
            f"{path} has no tokenizer; these are read: {READ}. Add one, or name its directory with --tokenizer."
        )
    _append(backend, names, path)
    added.named = {name: {"content": token} for name, token in roles.items()} | added.named
    bos, eos = added.named.get("bos_token"), added.named.get("eos_token")
    set_post_processor(
        backend,
        bos["content"] if bos and config.get("add_bos_token") is not False else None,
        eos["content"] if eos and config.get("add_eos_token") is True else None,
    )
    return backend


def _ranked_file(path: Path) -> Path | None:
    candidates = [path / "tokenizer.model", path / "tiktoken.model", *sorted(path.glob("*.tiktoken"))]
    return next((file for file in candidates if file.is_file() and is_tiktoken_file(file)), None)


def _sentencepiece_file(path: Path) -> Path | None:
    candidates = [path / "tokenizer.model", path / "spiece.model", *sorted(path.glob("tokenizer.model.v*"))[::-1]]
    return next((file for file in candidates if file.is_file()), None)


def _append(backend: tokenizers.Tokenizer, names: Mapping[int, str], path: Path) -> None:
    """Add the tokens that the vocabulary lacks at the ids of the files. Raises BadCheckpoint if they do not fit."""
    for id, name in sorted(names.items()):
        if backend.token_to_id(name) is None:
            size = backend.get_vocab_size()
            if not size <= id <= size + MAX_GAP:
                raise BadCheckpoint(
                    f"{path}: the added token {name!r} has id {id}, which does not follow the vocabulary's {size} ids."
                )
            unused = [f"<|reserved_token_{free}|>" for free in range(size, id)]
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in unused])
            backend.add_tokens([AddedToken(name, normalized=False)])
        if backend.token_to_id(name) != id:
            raise BadCheckpoint(
                f"{path}: the added token {name!r} should have id {id}, and the vocabulary gives it "
                f"{backend.token_to_id(name)}. Add the model's tokenizer.json."
            )


def _through_transformers(path: Path, model_config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Convert vocab.json and merges.txt with transformers, which is imported only here, since that takes 1.7 s.

    Raises BadCheckpoint if they cannot be converted.
    """
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except Exception as error:
        raise BadCheckpoint(
            f"{path} has no tokenizer.json, and its vocab.json cannot be converted: {str(error)[:300]}"
        ) from error
    size, expected = backend.get_vocab_size(), model_config.get("vocab_size")
    if isinstance(expected, int) and size < expected // 2:
        raise BadCheckpoint(
            f"{path} has no tokenizer.json, and the tokenizer made without it knows {size} tokens where config.json "
            f"says {expected}. Add the model's tokenizer.json."
        )
    return backend, {name: str(token) for name in SPECIAL_TOKEN_NAMES if (token := getattr(tokenizer, name, None))}
