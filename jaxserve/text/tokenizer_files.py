"""Read the parts of a Tokenizer from a directory in Hugging Face layout.

Reads tokenizer.json with the `tokenizers` library, and around it tokenizer_config.json, special_tokens_map.json,
chat_template.jinja and additional_chat_templates/, and the end token of config.json or generation_config.json. The
tokens that frame a text are tokenizer.json's own; add_bos_token and add_eos_token beside it do not count (so does
transformers 5). A directory without tokenizer.json is read by `tokenizer_conversion`.
"""

from pathlib import Path
from typing import Any

import tokenizers

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES, read_model_file, read_model_text
from jaxserve.text.added_tokens import AddedTokens
from jaxserve.text.tokenizer_conversion import convert
from jaxserve.text.tokenizer_parts import TokenizerParts, read_json


def read_directory(path: Path) -> TokenizerParts:
    """Read the tokenizer in `path`. Raises BadCheckpoint with the name of the file that is missing or broken."""
    config = read_json(path / "tokenizer_config.json")
    added = AddedTokens.from_directory(path, config)
    file = path / "tokenizer.json"
    backend = _open(file) if file.is_file() else convert(path, config, added)
    added.apply(backend)
    strings = {name: token["content"] for name, token in added.named.items()}
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
        return tokenizers.Tokenizer.from_buffer(read_model_file(file, MAX_TOKENIZER_BYTES))
    except BadCheckpoint:
        raise
    except Exception as error:  # the library raises plain Exception
        raise BadCheckpoint(f"{file.name} in {file.parent} cannot be read: {str(error)[:200]}") from error


def _chat_templates(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name. Files override the configuration."""
    templates: dict[str, str] = {}
    configured = config.get("chat_template")
    if isinstance(configured, str):
        templates["default"] = configured
    elif isinstance(configured, dict):
        templates |= {str(name): text for name, text in configured.items() if isinstance(text, str)}
    elif isinstance(configured, list):
        templates |= {entry["name"]: entry["template"] for entry in configured}
    legacy = path / "chat_template.json"
    if legacy.is_file() and isinstance(text := read_json(legacy).get("chat_template"), str):
        templates["default"] = text
    if (file := path / "chat_template.jinja").exists():
        templates["default"] = read_model_text(file, MAX_TEMPLATE_BYTES)
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        templates[file.stem] = read_model_text(file, MAX_TEMPLATE_BYTES)
    for name, text in templates.items():
        try:
            num_bytes = len(text.encode())
        except UnicodeEncodeError:
            raise BadCheckpoint(f"The chat template {name!r} in {path} holds half a surrogate pair.") from None
        if num_bytes > MAX_TEMPLATE_BYTES:
            raise BadCheckpoint(f"The chat template {name!r} in {path} has {num_bytes} bytes, more than any needs.")
    return templates


def _id(backend: tokenizers.Tokenizer, token: str | None) -> int | None:
    return None if token is None else backend.token_to_id(token)


def _id_from_config(path: Path, key: str) -> int | None:
    """Return the id in generation_config.json or config.json; the first, if there are several."""
    for name in ("generation_config.json", "config.json"):
        value = read_json(path / name).get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return None
