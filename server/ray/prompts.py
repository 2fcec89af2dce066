"""Reads the prompt of a request's body, so that its pages can be hashed before a replica is chosen.

It makes the same prompt as the routes of each API do. What these would refuse has no prompt here: it goes to any
replica, which says what is wrong.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxserve import ChatPrompt, RequestError, TextPrompt
from server.body import parse_json
from server.config import ServerConfig
from server.errors import ApiError
from server.jobs import parse_prompts
from server.messages.mapper import map_messages
from server.rendering import make_chat_prompt
from server.responses.mapper import map_request
from server.schemas.chat import ChatRequest
from server.schemas.common import validate_body
from server.schemas.completions import CompletionRequest
from server.schemas.messages import MessagesRequest
from server.schemas.responses import ResponsesRequest

if TYPE_CHECKING:
    from jaxserve import PromptHasher, PromptPages

log = logging.getLogger(__name__)

_ANY_LENGTH = sys.maxsize  # of the model, which bounds answers; a prompt is the same for any


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt, and what else decides which cached pages it may have.

    prompt       a conversation, a text, or token ids; of several prompts the first
    model        the name of the model, or of an adapter
    cache_salt   the client's
    """

    prompt: ChatPrompt | TextPrompt | list[int]
    model: str | None
    cache_salt: str | None


def hash_body(path: str, body: bytes, hasher: PromptHasher, config: ServerConfig, sender: str) -> PromptPages | None:
    """Return the pages of a request's prompt; None if it has none, or none that can be read.

    sender   who sends it, as ApiKeyAuth.identify tells: with --isolate-cache-per-key pages are his alone
    """
    try:
        read = read_prompt(path, body, config)
        if read is None or (isinstance(read.prompt, ChatPrompt) and read.prompt.chat_template is not None):
            return None  # a template of a client is rendered by worker processes, and once is enough
        salt = f"{sender}/{read.cache_salt or ''}" if config.isolate_cache_per_key else read.cache_salt
        return hasher.hash(read.prompt, cache_salt=salt, adapter=read.model)
    except (ApiError, RequestError):
        return None
    except Exception:  # hashes only save work: a fault in them must not cost the answer
        log.exception("a prompt was not hashed; its replica is chosen by load")
        return None


def read_prompt(path: str, body: bytes, config: ServerConfig) -> ReadPrompt | None:
    """Return the prompt of a request; None if none is read at this path.

    Raises ApiError or RequestError for a body that is wrong.
    """
    read = _READERS.get(path)
    return None if read is None else read(body, config)


def _read_chat(body: bytes, config: ServerConfig) -> ReadPrompt:
    return _make_read(validate_body(ChatRequest, parse_json(body, config.max_json_nodes)), config)


def _read_messages(body: bytes, config: ServerConfig) -> ReadPrompt:
    request = validate_body(MessagesRequest, parse_json(body, config.max_json_nodes))
    return _make_read(map_messages(request, config, has_reasoning=False, max_model_len=_ANY_LENGTH).chat, config)


def _read_responses(body: bytes, config: ServerConfig) -> ReadPrompt:
    request = validate_body(ResponsesRequest, parse_json(body, config.max_json_nodes))
    mapped = map_request(request, (), config, _ANY_LENGTH)
    if mapped.grammar_tool is not None:
        config = replace(config, exclude_tools_when_tool_choice_none=False)
    return _make_read(mapped.chat, config)


def _read_completion(body: bytes, config: ServerConfig) -> ReadPrompt:
    request = validate_body(CompletionRequest, parse_json(body, config.max_json_nodes))
    prompt = parse_prompts(request, config)[0]
    if isinstance(prompt, str):
        return ReadPrompt(
            TextPrompt(prompt, request.add_special_tokens is not False), request.model, request.cache_salt
        )
    return ReadPrompt(prompt, request.model, request.cache_salt)


def _make_read(request: ChatRequest, config: ServerConfig) -> ReadPrompt:
    return ReadPrompt(make_chat_prompt(request, config), request.model, request.cache_salt)


_READERS: dict[str, Callable[[bytes, ServerConfig], ReadPrompt]] = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_completion,
    "/v1/messages": _read_messages,
    "/v1/responses": _read_responses,
}
