"""The method `chat` of LLM: conversations are answered."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from jaxserve.chat_output_spec import ToolChoice
from jaxserve.llm_inputs import Message, Params, parse_conversations, parse_sampling_params
from jaxserve.llm_options import UNSET, chat_options, check_keywords, explain_request_option, sampling_options
from jaxserve.llm_requests import LoadedModel, find_adapters, prepare_chat, shows_progress
from jaxserve.lora_request import LoRARequest
from jaxserve.outputs import Completion
from jaxserve.sampling_params import LogitBias, RepetitionDetection, Texts, TokenIds
from jaxserve.structured_outputs import StructuredOutputs


@overload
def chat(
    self: LoadedModel,
    messages: str | list[Message],
    sampling_params: Params | None = None,
    *,
    use_tqdm: bool = True,
    lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
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
) -> Completion: ...


@overload
def chat(
    self: LoadedModel,
    messages: list[list[Message]],
    sampling_params: Params | Sequence[Params] | None = None,
    *,
    use_tqdm: bool = True,
    lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
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
) -> list[Completion]: ...


@check_keywords(explain_request_option)
def chat(
    self: LoadedModel,
    messages: str | list[Message] | list[list[Message]],
    sampling_params: Params | Sequence[Params] | None = None,
    *,
    use_tqdm: bool = True,
    lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
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
) -> Completion | list[Completion]:
    """Answer a conversation, or several at once, with reasoning, content and tool calls told apart.

    messages          a text (one message of the user) or a list of messages, for which one Completion is returned;
                      or a list of conversations, for which a list of Completions is
    sampling_params   one value for all conversations, or one for each
    use_tqdm          show a progress bar over several conversations
    lora_request      the adapter of all conversations, or one for each

    The other parameters are the fields of ChatOptions and of SamplingParams, which describe them; the latter
    override those of sampling_params.

    Raises RequestError for a request that cannot be served, EngineStopped after `close`, GenerationFailed if the
    engine could not finish.
    """
    sampling, options = sampling_options(locals()), chat_options(locals())
    conversations, are_several = parse_conversations(messages)
    all_params = parse_sampling_params(sampling_params, sampling, len(conversations))
    client = self._blocking_client.client
    adapters = find_adapters(client, lora_request, len(conversations))
    requests = [
        prepare_chat(client, conversation, params, options, adapter)
        for conversation, params, adapter in zip(conversations, all_params, adapters, strict=True)
    ]
    completions = self._blocking_client.run(requests, show_progress=shows_progress(self, use_tqdm, requests))
    return completions if are_several else completions[0]
