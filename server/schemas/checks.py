"""Checks that the types of the schemas cannot express: combinations of fields, sizes, and unsupported fields.

They need the body and the configuration only. SamplingParams checks the ranges of sampling parameters; ids and lengths
are checked against the model in jobs.py.
"""

from typing import Any

from jaxserve import InvalidParameter, check_stop_strings
from server.config import ServerConfig
from server.errors import preview
from server.schemas.batch_chat import BatchChatRequest
from server.schemas.chat import REASONING_EFFORTS, ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.constraints import resolve_constraint
from server.schemas.fields import refuse_unsupported
from server.schemas.generation import MAX_LABEL_CHARS, MAX_SALT_CHARS, MAX_STOP_CHARS, GenerationRequest
from server.schemas.template import check_messages, check_template_fields
from server.schemas.tools import check_tools

MAX_XARGS_INTEGER = 2**64


def check_chat(request: ChatRequest, config: ServerConfig) -> None:
    """Check the body of a chat request. Raises RequestError about the field at fault."""
    _check_shared(request, config)
    check_messages(request.messages)
    _check_logprobs(request)
    check_template_fields(request, config)
    check_tools(request)
    check_reasoning_effort(request.reasoning_effort)
    refuse_unsupported(request)


def check_batch(batch: BatchChatRequest, config: ServerConfig) -> None:
    """Check the body of a batch of conversations.

    Raises InvalidParameter or another RequestError about the field at fault.
    """
    refuse_unsupported(batch)
    num, limit = len(batch.messages), config.max_completion_prompts
    if num > limit:
        raise InvalidParameter(f"messages has {num} conversations; at most {limit} are allowed.", "messages")
    first, *others = batch.to_chat_requests()
    check_chat(first, config)
    for request in others:  # they differ in nothing else
        check_messages(request.messages)


def check_completion(request: CompletionRequest, config: ServerConfig) -> None:
    """Check the body of a completion request.

    Raises InvalidParameter or Unsupported about the field at fault.
    """
    _check_shared(request, config)
    if request.logprobs is not None and request.logprobs < -1:
        raise _range_error("logprobs", "at least -1", request.logprobs)
    if request.prompt_embeds is not None:
        raise InvalidParameter("prompt_embeds is not supported; send text or token ids as prompt.", "prompt_embeds")
    if request.suffix is not None:
        raise InvalidParameter("suffix is not supported: this model cannot fill in the middle.", "suffix")
    if request.use_beam_search and request.stream:
        raise InvalidParameter("use_beam_search is not available with stream: true.", "use_beam_search")
    if request.use_beam_search and request.echo and request.logprobs is not None:
        raise InvalidParameter("use_beam_search is not available with echo and logprobs together.", "use_beam_search")
    if request.max_tokens == 0 and not request.echo:
        raise InvalidParameter("max_tokens must be at least 1, got 0; 0 is only allowed with echo.", "max_tokens")
    resolve_constraint(request)
    refuse_unsupported(request)


def _check_shared(request: GenerationRequest, config: ServerConfig) -> None:
    options = request.stream_options
    if options is not None and not options.is_empty and not request.stream:
        raise InvalidParameter("stream_options is only allowed with stream: true.", "stream_options")
    for name in ("request_id", "user", "session_id"):
        check_label(name, getattr(request, name))
    if request.prompt_logprobs is not None:
        if request.prompt_logprobs < -1:
            raise _range_error("prompt_logprobs", "at least -1", request.prompt_logprobs)
        if request.stream and request.prompt_logprobs != 0:
            raise InvalidParameter("prompt_logprobs is not available with stream: true.", "prompt_logprobs")
    if request.use_beam_search and request.prompt_logprobs is not None:
        raise InvalidParameter("prompt_logprobs is not available with use_beam_search.", "prompt_logprobs")
    if request.stream and request.routed_experts_prompt_start:
        name = "routed_experts_prompt_start"
        raise InvalidParameter(f"{name} is not available with stream: true, which brings no experts.", name)
    if request.stream_interval is not None and request.stream_interval < 1:
        raise _range_error("stream_interval", "at least 1", request.stream_interval)
    if request.n is not None and not 1 <= request.n <= config.max_n:
        raise _range_error("n", f"in [1, {config.max_n}]", request.n)
    _check_stop_strings(request, config)
    check_cache_salt(request.cache_salt)
    _check_extensions(request)


def check_label(name: str, value: str | None) -> None:
    """Check the length of an id, which is repeated in every chunk. Raises InvalidParameter if it is too long."""
    if value is not None and len(value) > MAX_LABEL_CHARS:
        raise InvalidParameter(f"{name} has {len(value)} characters; at most {MAX_LABEL_CHARS} are allowed.", name)


def _check_stop_strings(request: GenerationRequest, config: ServerConfig) -> None:
    stops = request.stop_strings
    if len(stops) > config.max_stop_strings:
        message = f"stop has {len(stops)} strings; at most {config.max_stop_strings} are allowed."
        raise InvalidParameter(message, "stop")
    check_stop_strings(stops)
    if any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise InvalidParameter(f"stop has a string of more than {MAX_STOP_CHARS} characters.", "stop")


def check_cache_salt(salt: str | None) -> None:
    """Check the length and the characters of a salt. Raises InvalidParameter if they are not allowed."""
    if salt is not None and (not 1 <= len(salt) <= MAX_SALT_CHARS or set(salt) & set("@/\\\0")):
        message = f"cache_salt must have 1 to {MAX_SALT_CHARS} characters, none of them @, /, \\ or NUL."
        raise InvalidParameter(message, "cache_salt")


def _check_extensions(request: GenerationRequest) -> None:
    for name, value in (request.vllm_xargs or {}).items():
        values = value if isinstance(value, list) else [value]
        if not all(map(_is_plain, values)):
            message = f"vllm_xargs {preview(name)} must be a string, a number of 64 bits, or an array of those."
            raise InvalidParameter(message, "vllm_xargs")


def _is_plain(value: Any) -> bool:
    if isinstance(
        value, float
    ):  # integers beyond 64 bits are parsed as floats; the first below -2**63 is rounded to it
        return not value.is_integer() or -(2**63) < value < MAX_XARGS_INTEGER
    return isinstance(value, str | int) and not (type(value) is int and not -(2**63) <= value < MAX_XARGS_INTEGER)


def _check_logprobs(request: ChatRequest) -> None:
    top = request.top_logprobs
    if top is None:
        return
    if top < -1:
        raise _range_error("top_logprobs", "at least -1", top)
    if top != 0 and not request.logprobs:
        raise InvalidParameter("top_logprobs needs logprobs: true.", "top_logprobs")


def check_reasoning_effort(effort: str | None) -> None:
    """Check a reasoning_effort. Raises InvalidParameter if it is none of REASONING_EFFORTS."""
    if effort is not None and effort not in REASONING_EFFORTS:
        raise _range_error("reasoning_effort", f"one of {', '.join(REASONING_EFFORTS)}", effort)


def _range_error(name: str, allowed: str, value: object) -> InvalidParameter:
    return InvalidParameter(f"{name} must be {allowed}, got {preview(value)}.", name)
