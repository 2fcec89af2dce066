"""The keyword parameters of LLM: how its methods collect them, and what happens to a keyword that is not a parameter.

The methods of LLM declare every option by name and type, so that editors and `inspect.signature` show them. A test
compares these signatures with the fields of EngineConfig, SamplingParams and ChatOptions.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxserve.chat_output_spec import ToolChoice
from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.sampling_params import SamplingParams

P = ParamSpec("P")
R = TypeVar("R")

# Arguments of vLLM's LLM that change no output here.
IGNORED_VLLM_OPTIONS = frozenset(
    (
        *("enforce_eager", "swap_space", "cpu_offload_gb", "disable_log_stats", "max_seq_len_to_capture"),
        *("disable_custom_all_reduce", "trust_remote_code", "compilation_config", "enable_chunked_prefill"),
    )
)
# Arguments of vLLM's LLM of which one value is what is done here anyway.
FIXED_VLLM_OPTIONS = {
    "pipeline_parallel_size": 1,
    "tokenizer_mode": "auto",
    "load_format": "auto",
    "runner": "generate",
}


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


# The default of an option that was left out: the model's own default applies. Any fits parameters of every type.
UNSET: Any = _Unset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Options of a chat that are no sampling parameters: for the chat template and for tool calls.

    tools                    Functions that the model may call, as in the chat completions API:
                             {"type": "function", "function": {"name": …, "description": …, "parameters": …}}.
    tool_choice              "none", "auto", "required" or NamedTool(name). None means "auto" if there are tools and the
                             format of the model's tool calls is known, else "none".
    documents                Documents for retrieval-augmented generation, handed to the template.
    add_generation_prompt    End the prompt with the start of an assistant message.
    continue_final_message   Continue the last message instead of starting a new one.
    chat_template            A Jinja template to use in place of the model's own; a worker process renders it.
    chat_template_kwargs     Further variables for the template, such as {"enable_thinking": False}.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    documents: Sequence[Mapping[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None


ENGINE_OPTIONS = frozenset(field.name for field in fields(EngineConfig))
CHAT_OPTIONS = frozenset(field.name for field in fields(ChatOptions))
SAMPLING_OPTIONS = frozenset(field.name for field in fields(SamplingParams)) - {"given", "echo_only"}


def engine_config(arguments: Mapping[str, Any]) -> EngineConfig:
    """Build the EngineConfig from the arguments of LLM, whose `model` may be None for the default model.

    arguments   `locals()` of the method that declares the options, taken in its first line; other names are left alone

    Raises BadConfig if a value has the wrong type or cannot work.
    """
    options = {name: value for name, value in arguments.items() if name in ENGINE_OPTIONS}
    if options["model"] is None:
        del options["model"]
    types = get_type_hints(EngineConfig)
    return EngineConfig(**{name: _converted(name, value, types[name]) for name, value in options.items()})


def sampling_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Select the sampling options that the caller has set.

    arguments   `locals()` of the method that declares the options, taken in its first line; other names are left alone
    """
    return {name: value for name, value in arguments.items() if name in SAMPLING_OPTIONS and value is not UNSET}


def chat_options(arguments: Mapping[str, Any]) -> ChatOptions:
    """Collect the chat options.

    arguments   `locals()` of the method that declares the options, taken in its first line; other names are left alone
    """
    return ChatOptions(**{name: arguments[name] for name in CHAT_OPTIONS})


def check_keywords(explain: Callable[[str, Any], Exception | None]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that a keyword which it does not declare gets a helpful error instead of a TypeError.

    explain   returns the exception for a name and its value, or None to drop the keyword
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = frozenset(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in [name for name in kwargs if name not in known]:
                error = explain(name, kwargs[name])
                if error is not None:
                    raise error
                del kwargs[name]
            return function(*args, **kwargs)

        return checked

    return decorate


def explain_engine_option(name: str, value: Any) -> BadConfig | None:
    """Return the error for an argument that LLM does not have; None for one of vLLM's that has no effect here."""
    if name in IGNORED_VLLM_OPTIONS or FIXED_VLLM_OPTIONS.get(name, ...) == value:
        return None
    if name in FIXED_VLLM_OPTIONS:
        return BadConfig(f"{name} must be {FIXED_VLLM_OPTIONS[name]!r}, got {value!r}: nothing else is served yet.")
    similar = difflib.get_close_matches(name, ENGINE_OPTIONS, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(sorted(ENGINE_OPTIONS))}."
    return BadConfig(f"LLM has no setting {name!r}; {hint}")


def explain_request_option(name: str, value: Any) -> InvalidParameter:
    """Return the error for an argument that a method of LLM does not have."""
    return InvalidParameter(f"{name} is neither an option of this call nor a field of SamplingParams.", name)


def _converted(name: str, value: Any, declared: Any) -> Any:
    """Return the value in its declared type; None is the default of quantization in vLLM."""
    types = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    if value is None:
        value = value if NoneType in types else "auto"
    for allowed in types:
        plain_type = get_origin(allowed) or allowed
        if plain_type is Literal and value in get_args(allowed):
            return value
        if plain_type is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        is_bool_as_int = plain_type is int and isinstance(value, bool)
        if plain_type is not Literal and isinstance(value, plain_type) and not is_bool_as_int:
            return value
    choices = [str(choice) for allowed in types if get_origin(allowed) is Literal for choice in get_args(allowed)]
    names = [getattr(allowed, "__name__", str(allowed)) for allowed in types if allowed is not NoneType]
    raise BadConfig(f"{name} must be {' or '.join(choices or names)}, got {value!r}.")
