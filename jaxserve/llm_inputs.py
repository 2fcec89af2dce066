"""Prompts, conversations and sampling parameters in all forms that LLM accepts, converted into one form each.

The forms are vLLM's and shorter ones. Anything else is refused in one sentence that says what to write.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.llm_options import SAMPLING_OPTIONS, explain_request_option
from jaxserve.sampling_params import RepetitionDetection, SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = dict[str, Any]
Params = SamplingParams | Mapping[str, Any]

# Limits of a chat for which nobody sets any, as on the chat page and in `jaxserve run`: small models repeat themselves.
MAX_CHAT_TOKENS = 1024
REPETITION_DETECTION = RepetitionDetection(min_pattern_size=8, max_pattern_size=160, min_count=5)
MAX_TEXT_TOKENS = 16  # the limit of a continued text, as in vLLM and over HTTP


def parse_prompts(prompts: Any) -> list[str | list[int]]:
    """Convert the prompts of `generate` into a list of texts and token ids; a single prompt is a list of one.

    Raises InvalidParameter if a prompt has none of the accepted forms.
    """
    if isinstance(prompts, str | Mapping) or (_is_list(prompts) and prompts and _is_token_id(prompts[0])):
        return [_parse_prompt(prompts)]
    if not _is_list(prompts):
        raise _invalid("prompts", "a text, a list of token ids, or a list of these", prompts)
    if prompts and all(isinstance(prompt, Mapping) and "role" in prompt for prompt in prompts):
        raise InvalidParameter("generate continues texts; for messages write llm.chat(messages).", "prompts")
    return [_parse_prompt(prompt) for prompt in prompts]


def _parse_prompt(prompt: Any) -> str | list[int]:
    if isinstance(prompt, Mapping):
        keys = [key for key in ("prompt", "prompt_token_ids") if prompt.get(key) is not None]
        if len(keys) != 1 or prompt.keys() - {"prompt", "prompt_token_ids"}:
            raise _invalid("prompts", 'a dict with "prompt" or "prompt_token_ids" and nothing else', dict(prompt))
        prompt = prompt[keys[0]]
    if isinstance(prompt, str):
        return prompt
    if _is_list(prompt) and all(_is_token_id(token_id) for token_id in prompt):
        return [int(token_id) for token_id in prompt]
    raise _invalid("prompts", "texts or lists of token ids", prompt)


def parse_conversations(messages: Any) -> tuple[list[list[Message]], bool]:
    """Convert the messages of `chat` into a list of conversations, and tell whether a list of them was given.

    Raises InvalidParameter if the messages have none of the accepted forms.
    """
    if isinstance(messages, str):
        return [[{"role": "user", "content": messages}]], False
    if isinstance(messages, Mapping):
        return [_parse_conversation([messages])], False
    if not _is_list(messages) or not messages:
        raise _invalid("messages", 'a text, a list of messages like {"role": "user", "content": "…"}', messages)
    if all(isinstance(message, Mapping) for message in messages):
        return [_parse_conversation(messages)], False
    if all(_is_list(conversation) for conversation in messages):
        return [_parse_conversation(conversation) for conversation in messages], True
    raise InvalidParameter(
        "messages must be messages, or conversations, each a list of them; for texts write"
        ' [[{"role": "user", "content": text}] for text in texts].',
        "messages",
    )


def _parse_conversation(messages: Any) -> list[Message]:
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise _invalid("messages", 'objects like {"role": "user", "content": "…"}', message)
    return [dict(message) for message in messages]


def is_conversation(prompt: Any) -> bool:
    """Whether the argument of `stream` is a list of messages and not a prompt to continue."""
    return _is_list(prompt) and bool(prompt) and isinstance(prompt[0], Mapping) and "role" in prompt[0]


def check_tools(tools: Any) -> None:
    """Check that tools are a list of function definitions.

    Raises InvalidParameter if they are not.
    """
    for tool in tools if _is_list(tools) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _invalid("tools", 'objects like {"type": "function", "function": {"name": "…"}}', tool)
    if tools is not None and not _is_list(tools):
        raise _invalid("tools", "a list", tools)


def parse_sampling_params(given: Any, options: Mapping[str, Any], num_prompts: int) -> list[SamplingParams]:
    """Build one SamplingParams for each prompt.

    given     the argument sampling_params: None, one value for all prompts, or a list with one value for each
    options   sampling options that the caller has set; they override those of `given`

    Raises InvalidParameter if the number of values is wrong, or a value is.
    """
    values = list(given) if _is_list(given) else [given] * num_prompts
    if len(values) != num_prompts:
        raise InvalidParameter(
            f"sampling_params has {len(values)} values for {num_prompts} prompts; give one each, or one for all.",
            "sampling_params",
        )
    return [_override(value, options) for value in values]


def _override(given: Any, options: Mapping[str, Any]) -> SamplingParams:
    if isinstance(given, Mapping):
        unknown = sorted(given.keys() - SAMPLING_OPTIONS)
        if unknown:
            raise explain_request_option(unknown[0], given[unknown[0]])
        given = SamplingParams(**given)
    if given is None:
        return SamplingParams(**options)
    if not isinstance(given, SamplingParams):
        raise _invalid("sampling_params", "SamplingParams(…), or left out for keywords like temperature=0", given)
    return SamplingParams(**{**_given_values(given), **options})


def apply_defaults(params: SamplingParams, defaults: GenerationDefaults, **fallback: Any) -> SamplingParams:
    """Return params in which every field that the caller has not set takes the model's default, as over HTTP.

    fallback   values of fields for which the model has no default either; max_tokens gives way to the longest output
               (max_new_tokens) in the model's files
    """
    model_defaults = {name: value for name, value in defaults.values.items() if name != "max_new_tokens"}
    if "max_new_tokens" in defaults.values:
        fallback.pop("max_tokens", None)
    return SamplingParams(**{**fallback, **model_defaults, **_given_values(params)})


def _given_values(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in params.given}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_token_id(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)  # numpy's integers, too


def _invalid(param: str, allowed: str, value: Any) -> InvalidParameter:
    shown = repr(value)
    return InvalidParameter(f"{param} must be {allowed}; got {shown[:60]}{'…' if len(shown) > 60 else ''}.", param)
