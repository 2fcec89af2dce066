"""AddedTokens: the named, special and added tokens of a vocabulary, from the files beside it.

The rules are those of transformers 5 (tokenization_utils_base.py, _from_pretrained): special_tokens_map.json and
added_tokens.json count only where tokenizer_config.json has no added_tokens_decoder, and the map overrides the
configuration. A named token is special, whether its name is one of the usual ones, any other that ends in _token, or a
key of an extra_special_tokens object. A list of such tokens only adds those that the vocabulary lacks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import tokenizers
from tokenizers import AddedToken

from jaxserve.errors import BadCheckpoint
from jaxserve.text.tokenizer_parts import read_json

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OBJECTS = ("extra_special_tokens", "model_specific_special_tokens")
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")

TokenFields: TypeAlias = dict[str, Any]  # "content", and those of _FLAGS that a file sets


@dataclass(slots=True)
class AddedTokens:
    """The tokens that the files describe.

    named    Name → token, as templates see them.
    by_id    Id → token.
    listed   Further tokens, in their order.
    """

    named: dict[str, TokenFields] = field(default_factory=dict)
    by_id: dict[int, TokenFields] = field(default_factory=dict)
    listed: list[TokenFields] = field(default_factory=list)

    @classmethod
    def from_directory(cls, path: Path, config: Mapping[str, Any]) -> "AddedTokens":
        """Read the files of a directory; config: tokenizer_config.json. Raises BadCheckpoint if one is wrong."""
        decoder = config.get("added_tokens_decoder")
        sources = [("tokenizer_config.json", config)]
        if decoder is None:
            sources.append(("special_tokens_map.json", read_json(path / "special_tokens_map.json")))
        added = cls()
        for file, source in sources:
            try:
                added._take(source)
            except (TypeError, ValueError, KeyError) as error:
                raise BadCheckpoint(
                    f"{file} in {path} names a special token in a way that is not known: {error}."
                ) from None
        added.by_id = _by_id(path, decoder, {token["content"] for token in [*added.named.values(), *added.listed]})
        return added

    def _take(self, source: Mapping[str, Any]) -> None:
        plain = {
            name: value for name, value in source.items() if name.endswith("_token") and not isinstance(value, bool)
        }
        objects = [source[key] for key in _OBJECTS if isinstance(source.get(key), dict)]
        for name, value in [*plain.items(), *(item for entry in objects for item in entry.items())]:
            if value:
                self.named[name] = _token(value)
        lists = [source[key] for key in _LISTS if isinstance(source.get(key), list)]
        if lists:
            self.listed = [_token(value) for value in lists[0]]

    def apply(self, backend: tokenizers.Tokenizer) -> None:
        """Add the tokens that the vocabulary lacks, and make tokens special that should be."""
        known = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
        special = {token["content"] for token in self.named.values()}
        names = sorted(
            self.named,
            key=lambda name: (
                SPECIAL_TOKEN_NAMES.index(name) if name in SPECIAL_TOKEN_NAMES else len(SPECIAL_TOKEN_NAMES)
            ),
        )
        wanted: dict[str, TokenFields] = {}
        for token in [token for _, token in sorted(self.by_id.items())]:
            wanted[token["content"]] = token
        for token in [*(self.named[name] for name in names), *(t for t in self.listed if t["content"] not in known)]:
            wanted.setdefault(token["content"], {"special": True, **token})
        for content, token in wanted.items():
            flags = {flag: token[flag] for flag in _FLAGS if flag in token}
            flags["special"] = content in special or bool(flags.get("special"))
            if content not in known or (flags["special"] and not known[content]):
                add_tokens(backend, [AddedToken(content, **flags)])


def add_tokens(backend: tokenizers.Tokenizer, tokens: Iterable[AddedToken]) -> None:
    """Add tokens, the special ones so that skip_special_tokens hides them."""
    for token in tokens:
        if token.special:
            backend.add_special_tokens([token])
        else:
            backend.add_tokens([token])


def _by_id(path: Path, decoder: Any, special: set[str]) -> dict[int, TokenFields]:
    """Return the tokens of added_tokens_decoder, or of the older added_tokens.json, by id.

    Raises BadCheckpoint if they are not readable.
    """
    try:
        if decoder is not None:
            return {int(id): _token(token) for id, token in decoder.items()}
        older = read_json(path / "added_tokens.json")
        return {
            int(id): {"content": text, "special": text in special, "normalized": text not in special}
            for text, id in older.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"The added tokens of {path} are not readable: {error}.") from None


def _token(value: Any) -> TokenFields:
    """Return a token that is given as text or as an object as an object. Raises TypeError if it is neither."""
    token = {"content": value} if isinstance(value, str) else value
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise TypeError(f"{str(value)[:80]!r} is neither a text nor an object with a content")
    return token
