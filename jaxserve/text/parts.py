"""What a Tokenizer is made from, whichever file it came in."""

from dataclasses import dataclass, field
from typing import Any

import tokenizers


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
