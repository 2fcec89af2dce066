"""Has the library prepare requests: the prompt, the sampling parameters, and how the output is parsed.

Everything that can be known without running the model is checked before the first byte of a reply. The library checks
what every caller must obey; here are the rules of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxserve import ChatOutputSpec, ChatPrompt, InvalidParameter, RequestError, SamplingParams, TextPrompt
from server.client_fields import client_fields
from server.config import ServerConfig
from server.output_spec import check_effort, make_output_spec
from server.rendering import make_chat_prompt
from server.request_reader import HostWork
from server.sampling import make_sampling_params, resolve_max_tokens, resolve_num_logprobs
from server.schemas.chat import ChatRequest
from server.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.schemas.constraints import find_constraint_field, resolve_constraint
from server.schemas.tools import resolve_content_constraint

if TYPE_CHECKING:
    from jaxserve import Adapter, AsyncLLM, QueueSlot, Ready

BYTES_PER_TOKEN, BYTES_PER_LOGPROB = 8, 100  # of a reply, roughly: one token's text, one entry of its logprobs


async def prepare_chats(
    requests: Sequence[ChatRequest],
    llm: AsyncLLM,
    config: ServerConfig,
    work: HostWork,
    slot: QueueSlot,
    cache_salt: str | None = None,
    data_parallel_rank: int | None = None,
    adapter: Adapter | None = None,
    *,
    num_copies: int = 1,
) -> list[Ready]:
    """Prepare chat requests that differ in their messages only; several must have no tools. All are checked first.

    slot: the places of all in the queue. cache_salt: which requests may share cached prefixes. num_copies: how often
    the reply has each token.

    Raises RequestError if one cannot be served, Overloaded or EngineStopped if no request can be at the moment.
    """
    prompts, params, output = await work.run(partial(_translate_chats, requests, llm, config))
    request = requests[0]
    names = {
        "logprobs": "top_logprobs",
        "max_tokens": request.max_tokens_field,
        "prompt": "messages",
        "structured_outputs": find_constraint_field(request),
        "tool_choice": "tools" if request.tool_choice is None else "tool_choice",
    }
    with client_fields(names):
        jobs = await llm.prepare_all(
            prompts,
            params,
            output,
            slot,
            cache_salt=cache_salt,
            adapter=adapter,
            data_parallel_rank=data_parallel_rank,
        )
    expert_bytes = 0 if request.stream else llm.expert_bytes
    for job in jobs:
        _check_reply_size(job, config, expert_bytes, len(jobs), num_copies)
    return jobs


def _translate_chats(
    requests: Sequence[ChatRequest], llm: AsyncLLM, config: ServerConfig
) -> tuple[list[ChatPrompt], SamplingParams, ChatOutputSpec]:
    request = requests[0]
    check_effort(request, llm, config)
    max_tokens = resolve_max_tokens(request, minimum=1)
    logprobs = resolve_num_logprobs(request.top_logprobs or 0, llm) if request.logprobs else None
    prompt_logprobs = resolve_num_logprobs(request.prompt_logprobs, llm)
    if prompt_logprobs is None and request.echo and not request.stream and len(requests) == 1:
        prompt_logprobs = logprobs  # the reply to several has no place for them
    if request.stream:
        prompt_logprobs = None  # 0 is allowed, and returns nothing
    params = make_sampling_params(
        request,
        llm,
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=resolve_content_constraint(request),
    )
    prompts = [make_chat_prompt(each, config) for each in requests]
    return prompts, params, make_output_spec(request, config)


Prompt = str | list[int]


def parse_prompts(request: CompletionRequest, config: ServerConfig) -> list[Prompt]:
    """Return the prompts of a completion request, each a text or token ids.

    Raises InvalidParameter if one is neither, or empty, or there are more than --max-completion-prompts.
    """
    prompt = request.prompt
    if prompt is None or len(prompt) == 0:
        raise _prompt_error("prompt must not be empty")
    if isinstance(prompt, str):
        return [prompt]
    if all(_is_token_id(item) for item in prompt):
        return [[int(token_id) for token_id in prompt]]
    if len(prompt) > config.max_completion_prompts:
        raise _prompt_error(f"prompt has {len(prompt)} prompts; at most {config.max_completion_prompts} are allowed")
    if all(isinstance(item, str) for item in prompt):
        if "" in prompt:
            raise _prompt_error("prompt must not contain an empty string")
        return prompt
    if all(isinstance(item, list) and all(map(_is_token_id, item)) for item in prompt):
        if [] in prompt:
            raise _prompt_error("prompt must not contain an empty array")
        return [[int(token_id) for token_id in item] for item in prompt]
    raise _prompt_error(
        "prompt must be a string, an array of strings, an array of token ids, or an array of such arrays"
    )


async def prepare_completions(
    request: CompletionRequest,
    prompts: Sequence[Prompt],
    llm: AsyncLLM,
    config: ServerConfig,
    work: HostWork,
    slot: QueueSlot,
    cache_salt: str | None = None,
    data_parallel_rank: int | None = None,
    adapter: Adapter | None = None,
) -> list[Ready]:
    """Prepare each prompt of a completion request; all of them are checked before any runs.

    slot: the places of all in the queue. cache_salt: which requests may share cached prefixes.

    Raises RequestError if the request cannot be served, Overloaded or EngineStopped if no request can be at the moment.
    """
    params = await work.run(partial(_translate_completion, request, llm))
    names = {"max_tokens": request.max_tokens_field, "structured_outputs": find_constraint_field(request)}
    adds_special_tokens = request.add_special_tokens is not False
    with client_fields(names):
        jobs = await llm.prepare_all(
            [TextPrompt(prompt, adds_special_tokens) if isinstance(prompt, str) else prompt for prompt in prompts],
            params,
            None,
            slot,
            cache_salt=cache_salt,
            adapter=adapter,
            data_parallel_rank=data_parallel_rank,
        )
    expert_bytes = 0 if request.stream else llm.expert_bytes
    for job in jobs:
        _check_reply_size(job, config, expert_bytes, len(jobs))
    return jobs


def _translate_completion(request: CompletionRequest, llm: AsyncLLM) -> SamplingParams:
    max_tokens = resolve_max_tokens(request, minimum=0 if request.echo else 1)
    logprobs = resolve_num_logprobs(request.logprobs, llm)
    prompt_logprobs = resolve_num_logprobs(request.prompt_logprobs, llm)
    if request.echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    elif request.stream:
        prompt_logprobs = None
    return make_sampling_params(
        request,
        llm,
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=resolve_constraint(request),
        echo_only=max_tokens == 0,
    )


def _check_reply_size(
    ready: Ready, config: ServerConfig, expert_bytes: int, num_prompts: int = 1, num_copies: int = 1
) -> None:
    """Check that a reply is small enough. expert_bytes: of the experts of each token, before they are text."""
    params, prompt_ids = ready.params, ready.prompt_ids
    entries = 0 if params.logprobs is None else 1 + params.logprobs + len(params.logprob_token_ids)
    num_tokens = num_prompts * params.n * (params.max_tokens or 0) * num_copies
    generated = num_tokens * (BYTES_PER_TOKEN + BYTES_PER_LOGPROB * entries)
    scored = 0 if params.prompt_logprobs is None else len(prompt_ids) * (1 + params.prompt_logprobs) * BYTES_PER_LOGPROB
    routed = (num_prompts * params.n * len(prompt_ids) + num_tokens) * expert_bytes * 4 // 3  # in base64
    num_bytes = generated + scored + routed
    if num_bytes > config.max_reply_bytes:
        raise InvalidParameter(
            f"The reply could have {num_bytes} bytes; at most {config.max_reply_bytes} are allowed. "
            "Ask for fewer choices, tokens or logprobs."
        )


def _is_token_id(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _prompt_error(reason: str) -> RequestError:
    return InvalidParameter(reason + ".", "prompt")
