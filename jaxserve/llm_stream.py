"""The method `stream` of LLM: one output, piece by piece."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jaxserve.chat_output_spec import ToolChoice
from jaxserve.llm_inputs import (
    Message,
    Params,
    Prompt,
    is_conversation,
    parse_conversations,
    parse_prompts,
    parse_sampling_params,
)
from jaxserve.llm_options import UNSET, chat_options, check_keywords, explain_request_option, sampling_options
from jaxserve.llm_requests import LoadedModel, find_adapters, prepare_chat, prepare_text
from jaxserve.lora_request import LoRARequest
from jaxserve.outputs import TextDelta
from jaxserve.sampling_params import LogitBias, RepetitionDetection, Texts, TokenIds
from jaxserve.structured_outputs import StructuredOutputs


@check_keywords(explain_request_option)
def stream(
    self: LoadedModel,
    prompt: Prompt | list[Message],
    sampling_params: Params | None = None,
    *,
    lora_request: LoRARequest | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: ToolChoice | None = None,
    documents: Sequence[Mapping[str, str]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_tokens: int | None = UNSET,
    min_tokens: int = UNSET,
    temperature: float = UNSET,
    top_p: float = UNSET,
    top_k: int = UNSET,
    min_p: float = UNSET,
    seed: int | None = UNSET,
    n: int = UNSET,
    repetition_penalty: float = UNSET,
    frequency_penalty: float = UNSET,
    presence_penalty: float = UNSET,
    logit_bias: LogitBias = UNSET,
    allowed_token_ids: TokenIds | None = UNSET,
    bad_words: Texts = UNSET,
    stop: Texts = UNSET,
    stop_token_ids: TokenIds = UNSET,
    ignore_eos: bool = UNSET,
    include_stop_str_in_output: bool = UNSET,
    skip_special_tokens: bool = UNSET,
    logprobs: int | None = UNSET,
    logprob_token_ids: TokenIds = UNSET,
    prompt_logprobs: int | None = UNSET,
    routed_experts_prompt_start: int = UNSET,
    truncate_prompt_tokens: int | None = UNSET,
    truncation_side: Literal["left", "right"] = UNSET,
    repetition_detection: RepetitionDetection | Mapping[str, int] | None = UNSET,
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None = UNSET,
    thinking_token_budget: int | None = UNSET,
    priority: int = UNSET,
    use_beam_search: bool = UNSET,
    length_penalty: float = UNSET,
) -> Iterator[TextDelta]:
    """Yield the output piece by piece: a prompt is continued, messages are answered. Leaving the loop aborts.

    prompt            one prompt as for `generate`, or the messages of one conversation as for `chat`
    sampling_params   sampling parameters of the request
    lora_request      the adapter of the request

    The other parameters are the fields of ChatOptions, which apply to messages alone, and of SamplingParams, which
    override those of sampling_params.

    Raises as `generate` and `chat` do, on the first piece at the latest.
    """
    sampling, options = sampling_options(locals()), chat_options(locals())
    [params] = parse_sampling_params(sampling_params, sampling, 1)
    client = self._blocking_client.client
    [adapter] = find_adapters(client, lora_request, 1)
    if is_conversation(prompt):
        [conversation], _ = parse_conversations(prompt)
        return self._blocking_client.iterate(prepare_chat(client, conversation, params, options, adapter))
    [text] = parse_prompts(prompt)
    return self._blocking_client.iterate(prepare_text(client, text, params, adapter))
