"""From a request to jobs for the library: prompt ids, and the SamplingParams for them.

Everything that can be known without running the model is checked here, before the first byte of a reply: constraints
are compiled, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxserve import ChatOutputSpec, InvalidParameter, PromptTooLong, RequestError, SamplingParams
from server.answers import answer_format, check_answer, check_thinking_budget
from server.config import ServerConfig
from server.rendering import render
from server.runs import Job
from server.sampling import alternatives, context_tokens, length, sampling_params
from server.schemas.chat import ChatRequest
from server.schemas.common import GenerationRequest
from server.schemas.completions import CompletionRequest
from server.schemas.constraints import constraint, constraint_param, named_as_sent
from server.schemas.tools import content_constraint

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

COMPLETION_TOKENS = 16
TOKENIZE_FACTOR = 16  # /tokenize takes texts this many times longer than the model could read
TOKEN_BYTES, LOGPROB_BYTES = 8, 100  # of a reply, roughly: one token's text, one entry of its logprobs


async def chat_job(request: ChatRequest, llm: AsyncLLM, config: ServerConfig) -> Job:
    """Raises a RequestError for what cannot be served, Overloaded or EngineStopped when nothing can be now."""
    check_answer(request, llm, config)
    wanted = length(request, llm, least=1)
    logprobs = alternatives("top_logprobs", request.top_logprobs or 0, llm) if request.logprobs else None
    prompt_logprobs = alternatives("prompt_logprobs", request.prompt_logprobs, llm)
    if prompt_logprobs is None and request.echo and not request.stream:
        prompt_logprobs = logprobs
    if request.stream:
        prompt_logprobs = None  # 0 is allowed, and returns nothing
    params = sampling_params(
        request,
        llm,
        max_tokens=wanted,
        logprobs=logprobs,
        logprob_token_ids=tuple(request.logprob_token_ids or ()),
        prompt_logprobs=prompt_logprobs,
        thinking_token_budget=request.thinking_token_budget,
        structured_outputs=content_constraint(request),
    )
    prompt = await render(request, llm, config, counting=params.truncate_prompt_tokens is not None)
    job = _checked(prompt.token_ids, params, llm, config, "messages")
    prepared = await _prepared(request, llm, job.params, answer_format(request, config, prompt.text))
    return replace(job, prompt_text=prompt.text, prepared=prepared, constraint=constraint_param(request))


Prompt = str | list[int]


def prompts_of(request: CompletionRequest, config: ServerConfig) -> list[Prompt]:
    """The prompts, each a text or token ids. Raises InvalidParameter for anything that is neither, or empty."""
    prompt = request.prompt
    if prompt is None or len(prompt) == 0:
        raise _bad_prompt("prompt must not be empty")
    if isinstance(prompt, str):
        return [prompt]
    if all(_is_id(one) for one in prompt):
        return [[int(one) for one in prompt]]
    if len(prompt) > config.max_completion_prompts:
        raise _bad_prompt(f"prompt has {len(prompt)} prompts; at most {config.max_completion_prompts} are allowed")
    if all(isinstance(one, str) for one in prompt):
        if "" in prompt:
            raise _bad_prompt("prompt must not contain an empty string")
        return prompt
    if all(isinstance(one, list) and all(_is_id(number) for number in one) for one in prompt):
        if [] in prompt:
            raise _bad_prompt("prompt must not contain an empty array")
        return [[int(number) for number in one] for one in prompt]
    raise _bad_prompt("prompt must be a string, an array of strings, an array of token ids, or an array of such arrays")


async def completion_jobs(
    request: CompletionRequest, prompts: Sequence[Prompt], llm: AsyncLLM, config: ServerConfig
) -> list[Job]:
    """One job for each prompt; all of them are checked before any runs."""
    check_thinking_budget(request.thinking_token_budget, llm)
    wanted = length(request, llm, least=0 if request.echo else 1)
    logprobs = alternatives("logprobs", request.logprobs, llm)
    prompt_logprobs = alternatives("prompt_logprobs", request.prompt_logprobs, llm)
    if request.echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    elif request.stream:
        prompt_logprobs = None
    params = sampling_params(
        request,
        llm,
        max_tokens=COMPLETION_TOKENS if wanted is None else wanted,
        logprobs=logprobs,
        logprob_token_ids=tuple(request.logprob_token_ids or ()),
        prompt_logprobs=prompt_logprobs,
        thinking_token_budget=request.thinking_token_budget,
        structured_outputs=constraint(request),
        echo_only=wanted == 0,
    )
    cuts = params.truncate_prompt_tokens is not None
    for prompt in prompts:
        _check_prompt(prompt, llm, cuts)
    how = {"add_special_tokens": request.add_special_tokens is not False, "counting": cuts}
    ids = await asyncio.gather(*(_encoded(prompt, llm, how) for prompt in prompts))
    jobs = []
    for one in ids:
        job = _checked(one, params, llm, config, "prompt", len(prompts))
        jobs.append(replace(job, constraint=constraint_param(request)))
        await asyncio.sleep(0)  # with many ids in the parameters each of these takes a moment
    if params.has_thinking_budget:  # each prompt may have opened its reasoning, or not
        return [replace(job, prepared=await _prepared(request, llm, job.params, None, job.prompt_ids)) for job in jobs]
    prepared = await _prepared(request, llm, jobs[0].params)
    return [replace(job, prepared=prepared) for job in jobs]


def check_text(text: str, llm: AsyncLLM, param: str, factor: int = 1) -> None:
    """Refuses a text that cannot fit, whatever its tokens are, before it is tokenized."""
    limit = factor * context_tokens(llm) * llm.tokenizer.max_token_chars
    if len(text) > limit:
        raise PromptTooLong(
            f"The prompt is too long: its text has {len(text)} characters. This model's maximum context length is "
            f"{context_tokens(llm)} tokens, and no more than {limit} characters are taken here.",
            param,
        )


def check_ids(ids: Sequence[int], llm: AsyncLLM, param: str) -> None:
    """Every id must be one that the model has a logit for."""
    wrong = [one for one in ids if not 0 <= one < llm.vocab_size]
    if wrong:
        listed = ", ".join(str(one) for one in wrong[:10])
        raise InvalidParameter(
            f"{param} has token ids out of vocabulary: {listed}; ids are from 0 to {llm.vocab_size - 1}.", param
        )


async def _prepared(
    request: GenerationRequest,
    llm: AsyncLLM,
    params: SamplingParams,
    format: ChatOutputSpec | None = None,
    prompt_ids: Sequence[int] = (),
) -> Any:
    """What the library makes of a constraint, and of tools that must be called; it refuses grammars that it cannot
    hold an answer to."""
    try:
        return await llm.plan_output(params, format, prompt_ids)
    except RequestError as error:
        raise named_as_sent(error, constraint_param(request)) from None


def _checked(
    whole_ids: list[int], params: SamplingParams, llm: AsyncLLM, config: ServerConfig, param: str, num_prompts: int = 1
) -> Job:
    """The job, with the tokens that will be read and the number of those that may really be generated."""
    prompt_ids = params.truncate(whole_ids, context_tokens(llm))
    if not prompt_ids:
        raise InvalidParameter("The prompt is empty: it has no tokens.", param)
    try:
        params = llm.validate(prompt_ids, params)
    except PromptTooLong as error:
        raise PromptTooLong(str(error), error.param or param) from None
    _check_reply(prompt_ids, params, config, num_prompts)
    return Job(prompt_ids, params, is_cut=len(prompt_ids) < len(whole_ids))


def _check_reply(prompt_ids: Sequence[int], params: SamplingParams, config: ServerConfig, num_prompts: int) -> None:
    entries = 0 if params.logprobs is None else 1 + params.logprobs + len(params.logprob_token_ids)
    generated = num_prompts * params.n * (params.max_tokens or 0) * (TOKEN_BYTES + LOGPROB_BYTES * entries)
    scored = 0 if params.prompt_logprobs is None else len(prompt_ids) * (1 + params.prompt_logprobs) * LOGPROB_BYTES
    if generated + scored > config.max_reply_bytes:
        raise InvalidParameter(
            f"The reply could have {generated + scored} bytes; at most {config.max_reply_bytes} are allowed. "
            "Ask for fewer choices, tokens or logprobs."
        )


def _check_prompt(prompt: Prompt, llm: AsyncLLM, cuts: bool) -> None:
    if isinstance(prompt, str):
        check_text(prompt, llm, "prompt", TOKENIZE_FACTOR if cuts else 1)
    elif cuts or len(prompt) <= context_tokens(llm):
        check_ids(prompt, llm, "prompt")


async def _encoded(prompt: Prompt, llm: AsyncLLM, how: dict[str, bool]) -> list[int]:
    return await llm.encode(prompt, **how) if isinstance(prompt, str) else prompt


def _is_id(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _bad_prompt(reason: str) -> RequestError:
    return InvalidParameter(reason + ".", "prompt")
