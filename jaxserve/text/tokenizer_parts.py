"""TokenizerParts: the parts of a Tokenizer, whatever file they come from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import MAX_TOKENIZER_BYTES, read_model_text


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """The object of the `tokenizers` library, and what else a checkpoint says about its tokenizer.

    backend          The object of the `tokenizers` library.
    special_tokens   Name → text ("eos_token": "</s>"), as templates see them.
    eos_token_id     The primary end token.
    bos_token_id     The token that begins a text.
    chat_templates   Name → Jinja source ("default", "tool_use", …).
    config           tokenizer_config.json, or the same keys from a GGUF file.
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    eos_token_id: int | None
    bos_token_id: int | None
    chat_templates: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


def set_post_processor(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Make `backend` add these tokens before and after a text; None adds nothing."""
    added = dict.fromkeys(token for token in (bos, eos) if token is not None)
    template = [token for token in (bos, "$A", eos) if token is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, backend.token_to_id(token)) for token in added]
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in `file`, or an empty one if there is no such file. Raises BadCheckpoint for anything else."""
    try:
        value = json.loads(read_model_text(file, MAX_TOKENIZER_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file.name} in {file.parent} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{file.name} in {file.parent} must hold a JSON object.")
    return value
