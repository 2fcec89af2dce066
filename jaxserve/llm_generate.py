"""The method `generate` of LLM: texts are continued."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxserve.llm_inputs import Params, Prompt, parse_prompts, parse_sampling_params
from jaxserve.llm_options import UNSET, check_keywords, explain_request_option, sampling_options
from jaxserve.llm_requests import LoadedModel, find_adapters, prepare_text, shows_progress
from jaxserve.lora_request import LoRARequest
from jaxserve.outputs import Completion
from jaxserve.sampling_params import LogitBias, RepetitionDetection, Texts, TokenIds
from jaxserve.structured_outputs import StructuredOutputs


@check_keywords(explain_request_option)
def generate(
    self: LoadedModel,
    prompts: Prompt | Sequence[Prompt],
    sampling_params: Params | Sequence[Params] | None = None,
    *,
    use_tqdm: bool = True,
    lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
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
) -> list[Completion]:
    """Continue texts, all at once. Returns one Completion for each prompt, in order.

    prompts           a text, token ids, {"prompt": …} or {"prompt_token_ids": …}, or a list of these
    sampling_params   one value for all prompts, or one for each
    use_tqdm          show a progress bar over several prompts
    lora_request      the adapter of all prompts, or one for each

    The other parameters are the fields of SamplingParams, which describes them; they override those of
    sampling_params.

    Raises RequestError for a request that cannot be served, EngineStopped after `close`, GenerationFailed if the
    engine could not finish.
    """
    options = sampling_options(locals())
    parsed = parse_prompts(prompts)
    all_params = parse_sampling_params(sampling_params, options, len(parsed))
    client = self._blocking_client.client
    adapters = find_adapters(client, lora_request, len(parsed))
    requests = [
        prepare_text(client, prompt, params, adapter)
        for prompt, params, adapter in zip(parsed, all_params, adapters, strict=True)
    ]
    return self._blocking_client.run(requests, show_progress=shows_progress(self, use_tqdm, requests))
