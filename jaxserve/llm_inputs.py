"""What a caller of `LLM` may hand over, in vLLM's forms and in shorter ones, made into one form.

What is none of them is refused in one sentence that says what to write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

from jaxserve.chat_output_spec import ToolChoice
from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.sampling_params import RepetitionDetection, SamplingParams
from jaxserve.structured_outputs import StructuredOutputs

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = dict[str, Any]
Messages = list[Message]

# What an answer of a chat has where nothing is said, as on the chat page and in `jaxserve run`: small models loop.
MAX_CHAT_TOKENS = 1024
REPETITION_DETECTION = RepetitionDetection(min_pattern_size=8, max_pattern_size=160, min_count=5)
MAX_TEXT_TOKENS = 16  # of a text that is continued, as in vLLM and over HTTP

# vLLM's arguments of LLM(...) that change no answer here, and those of which one value is what is done anyway.
IGNORED_VLLM_OPTIONS = frozenset(
    (
        *("enforce_eager", "swap_space", "cpu_offload_gb", "disable_log_stats", "max_seq_len_to_capture"),
        *("disable_custom_all_reduce", "trust_remote_code", "compilation_config", "enable_chunked_prefill"),
    )
)
FIXED_VLLM_OPTIONS = {
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "tokenizer_mode": "auto",
    "load_format": "auto",
    "kv_cache_dtype": "auto",
    "enable_lora": False,
    "runner": "generate",
    "task": "generate",
}


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingParams, as keywords of `chat`, `generate` and `stream`."""

    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    n: int
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]]
    allowed_token_ids: Sequence[int] | None
    bad_words: str | Sequence[str]
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    logprobs: int | None
    logprob_token_ids: Sequence[int]
    prompt_logprobs: int | None
    truncate_prompt_tokens: int | None
    truncation_side: str
    repetition_detection: RepetitionDetection | Mapping[str, int] | None
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None
    thinking_token_budget: int | None
    priority: int
    use_beam_search: bool
    length_penalty: float


class ChatOptions(SamplingOptions, total=False):
    """The keywords of `chat` and `stream`: these for the chat template and the tools, and those of the sampling.

    tools                    functions that the model may call, as in the chat completions API
    tool_choice              default: auto if there are tools, and it is known how the model calls them
    documents                texts for the template
    add_generation_prompt    end the prompt with the start of an answer; default: True
    continue_final_message   go on with the last message instead
    chat_template            a Jinja template in place of the model's own; a helper process renders it
    chat_template_kwargs     further variables for the template
    """

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: ToolChoice | None
    documents: Sequence[Mapping[str, str]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any] | None


TEMPLATE_OPTIONS = ChatOptions.__annotations__.keys() - SamplingOptions.__annotations__.keys()


def build_engine_config(model: str | None, settings: Mapping[str, Any]) -> EngineConfig:
    """Return the EngineConfig of LLM's arguments. Raises BadConfig for one that is not known, and says what is near."""
    import difflib

    known = {field.name for field in fields(EngineConfig)}
    for name, value in settings.items():
        if name in known or name in IGNORED_VLLM_OPTIONS or FIXED_VLLM_OPTIONS.get(name, ...) == value:
            continue
        if name in FIXED_VLLM_OPTIONS:
            raise BadConfig(f"{name} must be {FIXED_VLLM_OPTIONS[name]!r}, got {value!r}: nothing else is served yet.")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}."
        raise BadConfig(f"LLM has no setting {name!r}; {hint}")
    given = {name: _convert_option(name, value) for name, value in settings.items() if name in known}
    return EngineConfig(**given) if model is None else EngineConfig(model=model, **given)


def _convert_option(name: str, value: Any) -> Any:
    """Return a setting of the type that EngineConfig declares; None is quantization's default in vLLM."""
    hint = get_type_hints(EngineConfig)[name]
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None:
        value = value if NoneType in options else "none"
    for option in options:
        kind = get_origin(option) or option
        if kind is Literal and value in get_args(option):
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind is not Literal and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    choices = [str(each) for option in options if get_origin(option) is Literal for each in get_args(option)]
    names = [getattr(option, "__name__", str(option)) for option in options if option is not NoneType]
    raise BadConfig(f"{name} must be {' or '.join(choices or names)}, got {value!r}.")


def check_tools(tools: Any) -> None:
    """Raises InvalidParameter for tools that are none."""
    for tool in tools if _is_list(tools) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _invalid("tools", 'objects like {"type": "function", "function": {"name": "…"}}', tool)
    if tools is not None and not _is_list(tools):
        raise _invalid("tools", "a list", tools)


def parse_prompts(prompts: Any) -> list[str | list[int]]:
    """Return the prompts of a call of `generate`, each a text or token ids. One alone is a list of one."""
    if isinstance(prompts, str | Mapping) or (_is_list(prompts) and prompts and _is_id(prompts[0])):
        return [_parse_prompt(prompts)]
    if not _is_list(prompts):
        raise _invalid("prompts", "a text, a list of token ids, or a list of these", prompts)
    if prompts and all(isinstance(each, Mapping) and "role" in each for each in prompts):
        raise InvalidParameter("generate continues texts; for messages write llm.chat(messages).", "prompts")
    return [_parse_prompt(prompt) for prompt in prompts]


def _parse_prompt(prompt: Any) -> str | list[int]:
    if isinstance(prompt, Mapping):
        given = [key for key in ("prompt", "prompt_token_ids") if prompt.get(key) is not None]
        if len(given) != 1 or prompt.keys() - {"prompt", "prompt_token_ids"}:
            raise _invalid("prompts", 'a dict with "prompt" or "prompt_token_ids" and nothing else', dict(prompt))
        prompt = prompt[given[0]]
    if isinstance(prompt, str):
        return prompt
    if _is_list(prompt) and all(_is_id(each) for each in prompt):
        return [int(each) for each in prompt]
    raise _invalid("prompts", "texts or lists of token ids", prompt)


def parse_conversations(messages: Any) -> tuple[list[Messages], bool]:
    """Return the conversations of a call of `chat`, and whether it was given a list of them."""
    if isinstance(messages, str):
        return [[{"role": "user", "content": messages}]], False
    if isinstance(messages, Mapping):
        return [_parse_conversation([messages])], False
    if not _is_list(messages) or not messages:
        raise _invalid("messages", 'a text, a list of messages like {"role": "user", "content": "…"}', messages)
    if all(isinstance(each, Mapping) for each in messages):
        return [_parse_conversation(messages)], False
    if all(_is_list(each) for each in messages):
        return [_parse_conversation(each) for each in messages], True
    raise InvalidParameter(
        "messages must be messages, or conversations, each a list of them; for texts write"
        ' [[{"role": "user", "content": text}] for text in texts].',
        "messages",
    )


def _parse_conversation(messages: Any) -> Messages:
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise _invalid("messages", 'objects like {"role": "user", "content": "…"}', message)
    return [dict(message) for message in messages]


def is_conversation(prompt: Any) -> bool:
    """Whether what is streamed are messages, and not a prompt to continue."""
    return _is_list(prompt) and bool(prompt) and isinstance(prompt[0], Mapping) and "role" in prompt[0]


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a chat that are for its template, and the others, which are for the sampler."""
    for_template = {name: value for name, value in options.items() if name in TEMPLATE_OPTIONS}
    return for_template, {name: value for name, value in options.items() if name not in TEMPLATE_OPTIONS}


def parse_sampling_params(given: Any, options: Mapping[str, Any], number: int) -> list[SamplingParams]:
    """Return the SamplingParams of so many prompts: what `given` says (one for all, or one each), under the options."""
    many = list(given) if _is_list(given) else [given] * number
    if len(many) != number:
        raise InvalidParameter(
            f"sampling_params has {len(many)} values for {number} prompts; give one each, or one for all.",
            "sampling_params",
        )
    return [_override(each, options) for each in many]


def _override(given: Any, options: Mapping[str, Any]) -> SamplingParams:
    unknown = sorted(options.keys() - SamplingOptions.__annotations__.keys())
    if unknown:
        raise InvalidParameter(
            f"{unknown[0]} is neither an option of this call nor a field of SamplingParams.", unknown[0]
        )
    if isinstance(given, Mapping):
        given = _override(None, given)
    if given is None:
        return SamplingParams(**options)
    if not isinstance(given, SamplingParams):
        raise _invalid("sampling_params", "SamplingParams(…), or left out for keywords like temperature=0", given)
    return replace_given(given, options)


def replace_given(params: SamplingParams, options: Mapping[str, Any]) -> SamplingParams:
    """Return the same with these fields set, and only those marked as given that were, or are now."""
    said = {name: getattr(params, name) for name in params.given}
    return SamplingParams(**{**said, **options})


def apply_defaults(params: SamplingParams, defaults: GenerationDefaults, **fallback: Any) -> SamplingParams:
    """Return params in which the fields that nobody set are the model's own, as over HTTP, or those of `fallback`.

    A fallback for max_tokens gives way to the longest answer that the model's files ask for.
    """
    own = {name: value for name, value in defaults.values.items() if name != "max_new_tokens"}
    if "max_new_tokens" in defaults.values:
        fallback.pop("max_tokens", None)
    said = {name: getattr(params, name) for name in params.given}
    return SamplingParams(**{**fallback, **own, **said})


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_id(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)  # numpy's integers, too


def _invalid(param: str, allowed: str, value: Any) -> InvalidParameter:
    shown = repr(value)
    return InvalidParameter(f"{param} must be {allowed}; got {shown[:60]}{'…' if len(shown) > 60 else ''}.", param)
