"""A directory in Hugging Face layout → the parts of a Tokenizer.

Reads tokenizer.json with the `tokenizers` library, and around it tokenizer_config.json, special_tokens_map.json,
chat_template.jinja and additional_chat_templates/, and the end token of config.json or generation_config.json. The
tokens that frame a text are tokenizer.json's own; add_bos_token and add_eos_token beside it do not count (so does
transformers 5). A directory without tokenizer.json is read by `tokenizer_conversion`.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxserve.errors import BadCheckpoint
from jaxserve.text.parts import TokenizerParts, read_json
from jaxserve.text.tokenizer_conversion import convert

_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


def read_directory(path: Path) -> TokenizerParts:
    """The tokenizer in `path`. BadCheckpoint says which file is missing or broken."""
    config = read_json(path / "tokenizer_config.json")
    named = _named_tokens(config, read_json(path / "special_tokens_map.json"))
    file = path / "tokenizer.json"
    if file.is_file():
        backend = _open(file)
    else:
        backend, named = convert(path, config, named)
    _add_tokens(backend, config, named)
    strings = {name: token["content"] for name, token in named.items()}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        strings |= {name: _token(token)["content"] for name, token in extra.items() if token}
    eos = _id(backend, strings.get("eos_token"))
    bos = _id(backend, strings.get("bos_token"))
    return TokenizerParts(
        backend=backend,
        special_tokens=strings,
        eos_token_id=_id_from_config(path, "eos_token_id") if eos is None else eos,
        bos_token_id=_id_from_config(path, "bos_token_id") if bos is None else bos,
        chat_templates=_chat_templates(path, config),
        config=config,
    )


def _open(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise BadCheckpoint(f"{file.name} in {file.parent} cannot be read: {str(error)[:200]}") from error


def _token(value: str | dict[str, Any]) -> dict[str, Any]:
    """A token given as text or as an object, as an object."""
    return {"content": value} if isinstance(value, str) else value


def _named_tokens(config: dict[str, Any], tokens_map: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tokens that have a name (eos_token, or a model's own such as sys_start_token), the configuration's first."""
    named: dict[str, dict[str, Any]] = {}
    for name, value in [*tokens_map.items(), *config.items()]:
        if name.endswith("_token") and value and (isinstance(value, str) or _is_token(value)):
            named[name] = _token(value)
    return named


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _add_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any], named: dict[str, dict[str, Any]]) -> None:
    """Adds what the configuration names and the file lacks, and flags the named tokens as special."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    decoder = config.get("added_tokens_decoder") or {}
    wanted = {token["content"]: token for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))}
    for token in named.values():
        wanted.setdefault(token["content"], {"special": True, **token})
    special_names = {token["content"] for token in named.values()}
    for content, token in wanted.items():
        flags = {flag: token[flag] for flag in _FLAGS if flag in token}
        if content in special_names:
            flags["special"] = True
        if content not in known or (flags.get("special") and not known[content].special):
            _add(backend, AddedToken(content, **flags))


def _add(backend: tokenizers.Tokenizer, token: AddedToken) -> None:
    if token.special:
        backend.add_special_tokens([token])
    else:
        backend.add_tokens([token])


def _chat_templates(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name. Files win over the configuration."""
    templates: dict[str, str] = {}
    given = config.get("chat_template")
    if isinstance(given, str):
        templates["default"] = given
    elif isinstance(given, dict):
        templates |= {str(name): text for name, text in given.items() if isinstance(text, str)}
    elif isinstance(given, list):
        templates |= {entry["name"]: entry["template"] for entry in given}
    legacy = path / "chat_template.json"
    if legacy.is_file() and isinstance(text := read_json(legacy).get("chat_template"), str):
        templates["default"] = text
    if (file := path / "chat_template.jinja").is_file():
        templates["default"] = file.read_text(encoding="utf-8")
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        templates[file.stem] = file.read_text(encoding="utf-8")
    return templates


def _id(backend: tokenizers.Tokenizer, token: str | None) -> int | None:
    return None if token is None else backend.token_to_id(token)


def _id_from_config(path: Path, key: str) -> int | None:
    """The id in generation_config.json or config.json; the first, if there are several."""
    for name in ("generation_config.json", "config.json"):
        value = read_json(path / name).get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return None
