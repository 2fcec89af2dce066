"""Prompts as callers give them: a conversation, a text, or token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatPrompt:
    """A conversation, which a chat template renders.

    messages                 The messages, as in the chat completions API.
    tools                    Functions that the model may call.
    documents                Documents for the template.
    add_generation_prompt    End the prompt with the start of an assistant message.
    continue_final_message   End the prompt where the last message ends.
    add_special_tokens       Add the tokenizer's special tokens to those that the template writes.
    chat_template            A template that came with the request and is not trusted: a worker process renders it.
                             None: the model's own.
    template_kwargs          Further variables for the template.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    template_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text that the model continues.

    text                 The text.
    add_special_tokens   Add the tokenizer's special tokens, such as one for the beginning of a text.
    """

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TextPair:
    """A query and a document, of which a model scores how well they fit together.

    first    The query.
    second   The document.
    """

    first: str
    second: str


PromptInput = ChatPrompt | TextPrompt | Sequence[int]
PoolingInput = ChatPrompt | TextPrompt | TextPair | Sequence[int]
