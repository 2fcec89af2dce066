"""The requests of LLM's methods, prepared with the model's defaults, and what these methods need of an LLM."""

from collections.abc import Sequence
from typing import Any, Protocol

from jaxserve.blocking_client import BlockingClient
from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.engine_client import EngineClient
from jaxserve.errors import InvalidParameter
from jaxserve.layers.adapter import Adapter
from jaxserve.llm_inputs import (
    MAX_CHAT_TOKENS,
    MAX_TEXT_TOKENS,
    REPETITION_DETECTION,
    Message,
    apply_defaults,
    check_tools,
)
from jaxserve.llm_options import ChatOptions
from jaxserve.lora_request import LoRARequest
from jaxserve.preparation import Ready
from jaxserve.prompt_input import ChatPrompt, TextPrompt
from jaxserve.sampling_params import SamplingParams


class LoadedModel(Protocol):
    """The part of an LLM that its methods in other files use."""

    _blocking_client: BlockingClient
    _is_quiet: bool


def shows_progress(model: LoadedModel, use_tqdm: bool, requests: Sequence[Ready]) -> bool:
    """Whether a progress bar is shown: never for one request."""
    return use_tqdm and not model._is_quiet and len(requests) > 1


def find_adapters(client: EngineClient, given: Any, num_prompts: int) -> list[Adapter | None]:
    """Return the adapter of each prompt, and read those that are new.

    given   the argument lora_request: None, one value for all prompts, or a list with one value for each

    Raises InvalidParameter if the number of values is wrong, or a value is; what `AdapterRegistry.load` raises.
    """
    values = list(given) if isinstance(given, list | tuple) else [given] * num_prompts
    if len(values) != num_prompts:
        raise InvalidParameter(
            f"lora_request has {len(values)} values for {num_prompts} prompts; give each its own, or one for all.",
            "lora_request",
        )
    for value in values:
        if not isinstance(value, LoRARequest | None):
            raise InvalidParameter(f"lora_request must be a LoRARequest, got {str(value)[:100]!r}.", "lora_request")
    return [None if each is None else client.adapters.get_or_load(each.lora_name, each.lora_path) for each in values]


def prepare_text(
    client: EngineClient, prompt: str | Sequence[int], params: SamplingParams, adapter: Adapter | None = None
) -> Ready:
    """Prepare a text to continue. The grammar that several prompts share is compiled once.

    Raises RequestError for a request that cannot be served.
    """
    params = apply_defaults(params, client.text.defaults, max_tokens=MAX_TEXT_TOKENS)
    return client.preparer.prepare(TextPrompt(prompt) if isinstance(prompt, str) else prompt, params, adapter=adapter)


def prepare_chat(
    client: EngineClient,
    messages: Sequence[Message],
    params: SamplingParams,
    options: ChatOptions,
    adapter: Adapter | None = None,
) -> Ready:
    """Prepare a conversation to answer.

    Raises RequestError for a request that cannot be served.
    """
    text = client.text
    max_tokens = min(MAX_CHAT_TOKENS, client.limits.max_model_len)
    params = apply_defaults(params, text.defaults, max_tokens=max_tokens, repetition_detection=REPETITION_DETECTION)
    check_tools(options.tools)
    tools, kwargs = options.tools or (), dict(options.chat_template_kwargs or {})
    prompt = ChatPrompt(
        messages=messages,
        tools=options.tools,
        documents=options.documents,
        add_generation_prompt=options.add_generation_prompt,
        continue_final_message=options.continue_final_message,
        chat_template=options.chat_template,
        template_kwargs=kwargs,
    )
    is_auto = client.config.enable_auto_tool_choice and text.output_planner.tool_parser.name and tools
    output = ChatOutputSpec(
        tools=tuple(tools),
        tool_choice=options.tool_choice or ("auto" if is_auto else "none"),
        enable_thinking=kwargs.get("enable_thinking", kwargs.get("thinking")),
        num_past_tool_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
    )
    return client.preparer.prepare(prompt, params, output, adapter=adapter)
