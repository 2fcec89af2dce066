"""From a request to jobs for the library: prompt ids, and the SamplingParams that the client's words come to.

Precedence of a sampling field: the request's value, unless null; the server's default for this model; neutral.
Everything that can be known without running the model is checked here, before the first byte of a reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from jaxserve import InvalidParameter, PromptTooLong, RepetitionDetection, RequestError, SamplingParams
from server.config import ServerConfig
from server.errors import shown
from server.rendering import render
from server.runs import Job
from server.schemas.chat import ChatRequest
from server.schemas.checks import transferred_ids
from server.schemas.common import GenerationRequest
from server.schemas.completions import CompletionRequest

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

COMPLETION_TOKENS = 16
AS_THEY_COME = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "min_tokens", "ignore_eos", "stop_token_ids"),
    *("include_stop_str_in_output", "skip_special_tokens", "repetition_penalty", "frequency_penalty"),
    *("presence_penalty", "allowed_token_ids", "bad_words", "priority", "truncate_prompt_tokens", "truncation_side"),
    *("use_beam_search", "length_penalty"),
)
TOKENIZE_FACTOR = 16  # /tokenize takes texts this many times longer than the model could read
TOKEN_BYTES, LOGPROB_BYTES = 8, 100  # of a reply, roughly: one token's text, one entry of its logprobs


class HasLength(Protocol):
    @property
    def wanted_tokens(self) -> int | None: ...
    @property
    def length_param(self) -> str: ...


async def chat_job(request: ChatRequest, llm: AsyncLLM, config: ServerConfig) -> Job:
    """Raises a RequestError for what cannot be served, Overloaded or EngineStopped when nothing can be now."""
    wanted = _length(request, llm, least=1)
    logprobs = _capped("top_logprobs", request.top_logprobs or 0, llm) if request.logprobs else None
    prompt_logprobs = _capped("prompt_logprobs", request.prompt_logprobs, llm)
    if prompt_logprobs is None and request.echo and not request.stream:
        prompt_logprobs = logprobs
    if request.stream:
        prompt_logprobs = None  # 0 is allowed, and returns nothing
    params = _params(
        request,
        llm,
        max_tokens=wanted,
        logprobs=logprobs,
        logprob_token_ids=tuple(request.logprob_token_ids or ()),
        prompt_logprobs=prompt_logprobs,
    )
    prompt = await render(request, llm, config, counting=params.truncate_prompt_tokens is not None)
    return replace(_checked(prompt.token_ids, params, llm, config, "messages"), prompt_text=prompt.text)


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
    wanted = _length(request, llm, least=0 if request.echo else 1)
    logprobs = _capped("logprobs", request.logprobs, llm)
    prompt_logprobs = _capped("prompt_logprobs", request.prompt_logprobs, llm)
    if request.echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    elif request.stream:
        prompt_logprobs = None
    params = _params(
        request,
        llm,
        max_tokens=COMPLETION_TOKENS if wanted is None else wanted,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        echo_only=wanted == 0,
    )
    cuts = params.truncate_prompt_tokens is not None
    for prompt in prompts:
        _check_prompt(prompt, llm, cuts)
    how = {"add_special_tokens": request.add_special_tokens is not False, "counting": cuts}
    ids = await asyncio.gather(*(_encoded(prompt, llm, how) for prompt in prompts))
    jobs = []
    for one in ids:
        jobs.append(_checked(one, params, llm, config, "prompt", len(prompts)))
        await asyncio.sleep(0)  # with many ids in the parameters each of these takes a moment
    return jobs


def context_tokens(llm: AsyncLLM) -> int:
    """Longest prompt plus answer; settled before there is anything to serve."""
    limit = llm.config.max_model_len
    if limit is None:
        raise RuntimeError("the engine's configuration was not resolved")
    return limit


def check_text(text: str, llm: AsyncLLM, param: str, factor: int = 1) -> None:
    """Refuses a text that cannot fit, whatever its tokens are, before it is tokenized."""
    limit = factor * context_tokens(llm) * llm.tokenizer.max_token_chars
    if len(text) > limit:
        raise PromptTooLong(
            f"The text has {len(text)} characters. This model's maximum context length is {context_tokens(llm)} "
            f"tokens, and no more than {limit} characters are taken here.",
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


def _params(request: GenerationRequest, llm: AsyncLLM, **known: Any) -> SamplingParams:
    """Fields that the request, or the model's own defaults, say nothing about keep SamplingParams' neutral values."""
    asked: dict[str, Any] = {name: value for name, value in llm.sampling_defaults.items() if name != "max_new_tokens"}
    for name in AS_THEY_COME:
        value = getattr(request, name)
        if value is not None:
            asked[name] = tuple(value) if isinstance(value, list) else value
    if asked.get("seed") == -1:
        del asked["seed"]
    if asked.get("top_k", 0) > llm.vocab_size:
        asked["top_k"] = llm.vocab_size  # the same as off, and it fits into the device's integers
    for name in ("allowed_token_ids", "logit_bias"):
        num = len(getattr(request, name) or ())
        if num > llm.vocab_size:
            raise InvalidParameter(f"{name} has {num} ids; the vocabulary has only {llm.vocab_size} tokens.", name)
    if request.repetition_detection is not None:
        known["repetition_detection"] = RepetitionDetection(
            **request.repetition_detection.model_dump(exclude_none=True)
        )
    params = SamplingParams(**asked, **known, stop=request.stops, logit_bias=_bias(request.logit_bias or {}))
    params.check_vocabulary(llm.vocab_size)
    check_ids(transferred_ids(request) or (), llm, "kv_transfer_params")
    params.check_priority(llm.config.scheduling_policy)
    return params


def _bias(by_key: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Keys as token ids; those that are none are all told at once, as far as a message may be long."""
    bias: dict[int, float] = {}
    wrong: list[str] = []
    for key, value in by_key.items():
        try:
            bias[int(key)] = value
        except ValueError:
            wrong.append(shown(key))
    if wrong:
        raise InvalidParameter(f"logit_bias keys must be token ids, got {', '.join(wrong)}.", "logit_bias")
    return tuple(bias.items())


def _length(request: HasLength, llm: AsyncLLM, least: int) -> int | None:
    wanted, param, limit = request.wanted_tokens, request.length_param, context_tokens(llm)
    if wanted is None:
        return None
    if wanted < least:
        raise InvalidParameter(f"{param} must be at least {least}, got {wanted}.", param)
    if wanted > limit:
        raise InvalidParameter(
            f"{param} is {wanted} and cannot be greater than max_model_len, which is {limit}.", param
        )
    return wanted


def _capped(name: str, asked: int | None, llm: AsyncLLM) -> int | None:
    """How many alternatives: -1 stands for the whole vocabulary, and --max-logprobs is the limit for both. Where that
    is -1, more than there are is as many as there are."""
    if asked is None:
        return None
    cap = llm.config.max_logprobs
    count = llm.vocab_size if asked == -1 else asked
    if count > cap >= 0:
        raise InvalidParameter(f"{name} asks for {count} alternatives; at most {cap} are allowed.", name)
    return min(count, llm.vocab_size)


def _checked(
    whole_ids: list[int], params: SamplingParams, llm: AsyncLLM, config: ServerConfig, param: str, num_prompts: int = 1
) -> Job:
    """The job, with the tokens that will be read and the number of those that may really be generated.

    Lengths are told in the words clients look for.
    """
    limit = context_tokens(llm)
    prompt_ids = params.truncate(whole_ids, limit)
    if not prompt_ids:
        raise InvalidParameter("The prompt is empty: it has no tokens.", param)
    if len(prompt_ids) >= limit:
        raise PromptTooLong(
            f"This model's maximum context length is {limit} tokens, but the prompt has {len(prompt_ids)} tokens, "
            f"which leaves no room for an answer. Please reduce the length of the {param}.",
            param,
        )
    try:
        params = llm.check(prompt_ids, params)
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
