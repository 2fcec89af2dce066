"""What a Tokenizer is made from, whichever file it came in."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from jaxserve.errors import BadCheckpoint


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """The tokenizers library's object, and what stands around it in a checkpoint.

    special_tokens   name → text ("eos_token": "</s>"), as templates see them
    chat_templates   name → Jinja source ("default", "tool_use", …)
    config           tokenizer_config.json, or what a GGUF says of it
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    eos_token_id: int | None
    bos_token_id: int | None
    chat_templates: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


def set_post_processor(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Make `backend` put these tokens before and after a text; None puts nothing."""
    around = dict.fromkeys(token for token in (bos, eos) if token is not None)
    template = [token for token in (bos, "$A", eos) if token is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, backend.token_to_id(token)) for token in around]
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in `file`, or nothing when there is no such file. Raises BadCheckpoint for anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file.name} in {file.parent} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{file.name} in {file.parent} must hold a JSON object.")
    return value
