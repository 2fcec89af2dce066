"""Makes generation jobs of requests: token ids of the prompt, sampling parameters, and the plan of the output.

Everything that can be known without running the model is checked here, before the first byte of a reply. Constraints
are compiled, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxserve import ChatOutputSpec, InvalidParameter, PromptTooLong, RequestError, SamplingParams
from server.config import ServerConfig
from server.generation import GenerationJob
from server.output_spec import check_output_spec, check_thinking_budget, make_output_spec
from server.rendering import render_prompt
from server.sampling import get_max_model_len, make_sampling_params, resolve_max_tokens, resolve_num_logprobs
from server.schemas.chat import ChatRequest
from server.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.schemas.constraints import find_constraint_field, rename_error_field, resolve_constraint
from server.schemas.generation import GenerationRequest
from server.schemas.tokens import TOKENIZE_LENGTH_FACTOR
from server.schemas.tools import resolve_content_constraint

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

BYTES_PER_TOKEN, BYTES_PER_LOGPROB = 8, 100  # of a reply, roughly: one token's text, one entry of its logprobs


async def make_chat_job(request: ChatRequest, llm: AsyncLLM, config: ServerConfig) -> GenerationJob:
    """Make the job of a chat request.

    Raises RequestError if the request cannot be served, Overloaded or EngineStopped if no request can be at the moment.
    """
    check_output_spec(request, llm, config)
    max_tokens = resolve_max_tokens(request, llm, minimum=1)
    logprobs = resolve_num_logprobs("top_logprobs", request.top_logprobs or 0, llm) if request.logprobs else None
    prompt_logprobs = resolve_num_logprobs("prompt_logprobs", request.prompt_logprobs, llm)
    if prompt_logprobs is None and request.echo and not request.stream:
        prompt_logprobs = logprobs
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
    prompt = await render_prompt(request, llm, config, counting=params.truncate_prompt_tokens is not None)
    job = _make_job(prompt.token_ids, params, llm, config, "messages")
    output_plan = await _plan_output(request, llm, job.params, make_output_spec(request, config, prompt.text))
    return replace(
        job, prompt_text=prompt.text, output_plan=output_plan, constraint_field=find_constraint_field(request)
    )


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


async def make_completion_jobs(
    request: CompletionRequest, prompts: Sequence[Prompt], llm: AsyncLLM, config: ServerConfig
) -> list[GenerationJob]:
    """Make one job for each prompt; all of them are checked before any runs.

    Raises RequestError if the request cannot be served, Overloaded or EngineStopped if no request can be at the moment.
    """
    check_thinking_budget(request.thinking_token_budget, llm)
    max_tokens = resolve_max_tokens(request, llm, minimum=0 if request.echo else 1)
    logprobs = resolve_num_logprobs("logprobs", request.logprobs, llm)
    prompt_logprobs = resolve_num_logprobs("prompt_logprobs", request.prompt_logprobs, llm)
    if request.echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    elif request.stream:
        prompt_logprobs = None
    params = make_sampling_params(
        request,
        llm,
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=resolve_constraint(request),
        echo_only=max_tokens == 0,
    )
    truncates = params.truncate_prompt_tokens is not None
    for prompt in prompts:
        _check_prompt(prompt, llm, truncates)
    options = {"add_special_tokens": request.add_special_tokens is not False, "counting": truncates}
    encoded_prompts = await asyncio.gather(*(_encode(prompt, llm, options) for prompt in prompts))
    jobs = []
    for token_ids in encoded_prompts:
        job = _make_job(token_ids, params, llm, config, "prompt", len(prompts))
        jobs.append(replace(job, constraint_field=find_constraint_field(request)))
        await asyncio.sleep(0)  # checking a job with many ids in its parameters takes a moment
    if params.has_thinking_budget:  # whether reasoning has begun depends on the prompt
        return [
            replace(job, output_plan=await _plan_output(request, llm, job.params, None, job.prompt_ids)) for job in jobs
        ]
    output_plan = await _plan_output(request, llm, jobs[0].params)
    return [replace(job, output_plan=output_plan) for job in jobs]


def check_text_length(text: str, llm: AsyncLLM, param: str, factor: int = 1) -> None:
    """Check, before a text is tokenized, that it could fit whatever its tokens are.

    param: the field that is blamed. factor: how many times longer than the context it may be.

    Raises PromptTooLong if it could not.
    """
    limit = factor * get_max_model_len(llm) * llm.tokenizer.max_token_chars
    if len(text) > limit:
        raise PromptTooLong(
            f"The prompt is too long: its text has {len(text)} characters. This model's maximum context length is "
            f"{get_max_model_len(llm)} tokens, and no more than {limit} characters are taken here.",
            param,
        )


def check_token_ids(ids: Sequence[int], llm: AsyncLLM, param: str) -> None:
    """Check that the model has a logit for every id. Raises InvalidParameter about `param` if not."""
    unknown_ids = [token_id for token_id in ids if not 0 <= token_id < llm.vocab_size]
    if unknown_ids:
        examples = ", ".join(map(str, unknown_ids[:10]))
        raise InvalidParameter(
            f"{param} has token ids out of vocabulary: {examples}; ids are from 0 to {llm.vocab_size - 1}.", param
        )


async def _plan_output(
    request: GenerationRequest,
    llm: AsyncLLM,
    params: SamplingParams,
    spec: ChatOutputSpec | None = None,
    prompt_ids: Sequence[int] = (),
) -> Any:
    """Let the library plan the output: compile its constraint, and choose its parser.

    Errors about the constraint name the field that the client used for it.
    """
    try:
        return await llm.plan_output(params, spec, prompt_ids)
    except RequestError as error:
        raise rename_error_field(error, find_constraint_field(request)) from None


def _make_job(
    token_ids: list[int], params: SamplingParams, llm: AsyncLLM, config: ServerConfig, param: str, num_prompts: int = 1
) -> GenerationJob:
    """Make a job with the token ids that will be read, and max_tokens lowered to what fits behind them."""
    prompt_ids = params.truncate(token_ids, get_max_model_len(llm))
    if not prompt_ids:
        raise InvalidParameter("The prompt is empty: it has no tokens.", param)
    try:
        params = llm.validate(prompt_ids, params)
    except PromptTooLong as error:
        raise PromptTooLong(str(error), error.param or param) from None
    _check_reply_size(prompt_ids, params, config, num_prompts)
    return GenerationJob(prompt_ids, params, is_truncated=len(prompt_ids) < len(token_ids))


def _check_reply_size(
    prompt_ids: Sequence[int], params: SamplingParams, config: ServerConfig, num_prompts: int
) -> None:
    entries = 0 if params.logprobs is None else 1 + params.logprobs + len(params.logprob_token_ids)
    generated = num_prompts * params.n * (params.max_tokens or 0) * (BYTES_PER_TOKEN + BYTES_PER_LOGPROB * entries)
    scored = 0 if params.prompt_logprobs is None else len(prompt_ids) * (1 + params.prompt_logprobs) * BYTES_PER_LOGPROB
    if generated + scored > config.max_reply_bytes:
        raise InvalidParameter(
            f"The reply could have {generated + scored} bytes; at most {config.max_reply_bytes} are allowed. "
            "Ask for fewer choices, tokens or logprobs."
        )


def _check_prompt(prompt: Prompt, llm: AsyncLLM, truncates: bool) -> None:
    if isinstance(prompt, str):
        check_text_length(prompt, llm, "prompt", TOKENIZE_LENGTH_FACTOR if truncates else 1)
    elif truncates or len(prompt) <= get_max_model_len(llm):
        check_token_ids(prompt, llm, "prompt")


async def _encode(prompt: Prompt, llm: AsyncLLM, options: dict[str, bool]) -> list[int]:
    return await llm.encode(prompt, **options) if isinstance(prompt, str) else prompt


def _is_token_id(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _prompt_error(reason: str) -> RequestError:
    return InvalidParameter(reason + ".", "prompt")
