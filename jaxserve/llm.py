"""LLM: the blocking API for notebooks and scripts. Works inside a running event loop, too."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from html import escape
from typing import Any, Literal, overload

from jaxserve.blocking_client import BlockingClient
from jaxserve.chat_output_spec import ChatOutputSpec, ToolChoice
from jaxserve.config import DEFAULT_MODEL, EngineConfig, Quantization
from jaxserve.engine_client import EngineClient
from jaxserve.llm_inputs import (
    MAX_CHAT_TOKENS,
    MAX_TEXT_TOKENS,
    REPETITION_DETECTION,
    Message,
    Prompt,
    apply_defaults,
    check_tools,
    is_conversation,
    parse_conversations,
    parse_prompts,
    parse_sampling_params,
)
from jaxserve.llm_options import (
    UNSET,
    ChatOptions,
    chat_options,
    check_keywords,
    engine_config,
    explain_engine_option,
    explain_request_option,
    sampling_options,
)
from jaxserve.output_plan import OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import Completion, StatsSnapshot, TextDelta
from jaxserve.progress_bars import ProgressBars
from jaxserve.sampling_params import LogitBias, RepetitionDetection, SamplingParams, Texts, TokenIds
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.text.tokenizer import Tokenizer

Params = SamplingParams | Mapping[str, Any]


class LLM:
    """A language model in this process.

    >>> with LLM() as llm:
    ...     print(llm.chat("What is the capital of Japan?", temperature=0).text)

    Sampling options that are not set take the model's own defaults, as over HTTP. Where neither sets a length, a chat
    output ends after 1,024 tokens or when it repeats itself, and a continued text ends after 16 tokens.

    Several threads may use one LLM. `close`, or the end of a `with` block, returns its memory.
    """

    @check_keywords(explain_engine_option)
    def __init__(
        self,
        model: str | None = DEFAULT_MODEL,
        *,
        quiet: bool = False,
        tokenizer: str | None = None,
        revision: str | None = None,
        download_dir: str | None = None,
        hf_token: str | None = None,
        hf_overrides: dict[str, Any] | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        quantization: Quantization = "none",
        tensor_parallel_size: int = 1,
        data_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        block_size: int = 16,
        gpu_memory_utilization: float = 0.92,
        kv_cache_memory_bytes: int | None = None,
        num_gpu_blocks_override: int | None = None,
        enable_prefix_caching: bool = True,
        attention_backend: str = "auto",
        seed: int | None = None,
        max_logprobs: int = 20,
        logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = "raw_logprobs",
        chat_template: str | None = None,
        chat_template_content_format: Literal["auto", "string", "openai"] = "auto",
        tool_call_parser: str = "auto",
        reasoning_parser: str = "auto",
        enable_auto_tool_choice: bool = True,
        tool_strict_level: Literal["auto", "function", "parameter"] = "auto",
        structured_outputs_config: dict[str, Any] | None = None,
        template_timeout_s: float = 30.0,
        request_template_timeout_s: float = 5.0,
        generation_config: str = "auto",
        override_generation_config: dict[str, Any] | None = None,
        max_num_queued_reqs: int | None = None,
        max_num_queued_tokens: int | None = None,
        compilation_cache_dir: str | None = None,
        batch_invariant: bool = False,
        roofline: bool = True,
        scheduling_policy: Literal["fcfs", "priority"] = "fcfs",
        overlap: bool = True,
        profile_steps: str | None = None,
        profile_dir: str | None = None,
    ) -> None:
        """Load a model and compile its programs. Blocks until the first request can be served.

        model   a directory in Hugging Face layout, a .gguf file, or a hub id; None is the default model
        quiet   show no progress bars, now and later

        The other parameters are the fields of EngineConfig, which describes them. Arguments of vLLM's LLM that change
        no output here are accepted.

        Raises BadConfig for an unknown or unusable argument, StartupError if the model cannot be served.
        """
        config = engine_config(locals())
        self._is_quiet = quiet
        with closing(ProgressBars()) as bars:
            self._blocking_client = BlockingClient(config, None if quiet else bars)
        self._config, self._description = self._client.config, self._client.description

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self._config.model!r}{'' if self._blocking_client.is_open else ', closed'})"

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the description as a table."""
        rows = "".join(
            f"| {name} | {escape(value).replace('|', '&#124;')} |\n" for name, value in self.description.items()
        )
        return f"| {'' if self._blocking_client.is_open else 'closed'} | |\n|---|---|\n{rows}"

    @property
    def config(self) -> EngineConfig:
        """The configuration as resolved: every limit is a number."""
        return self._config

    @property
    def description(self) -> dict[str, str]:
        """Facts about the loaded model for people, in the order to print them."""
        return self._description

    def get_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer. Raises EngineStopped after `close`."""
        return self._client.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the model's own sampling defaults. Raises EngineStopped after `close`."""
        return self._client.defaults.params

    @check_keywords(explain_request_option)
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
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

        The other parameters are the fields of SamplingParams, which describes them; they override those of
        sampling_params.

        Raises RequestError for a request that cannot be served, EngineStopped after `close`, GenerationFailed if the
        engine could not finish.
        """
        options = sampling_options(locals())
        parsed = parse_prompts(prompts)
        all_params = parse_sampling_params(sampling_params, options, len(parsed))
        streams = [self._complete_text(prompt, params) for prompt, params in zip(parsed, all_params, strict=True)]
        return self._blocking_client.run(streams, show_progress=self._shows_progress(use_tqdm, streams))

    @overload
    def chat(
        self,
        messages: str | list[Message],
        sampling_params: Params | None = None,
        *,
        use_tqdm: bool = True,
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
        self,
        messages: list[list[Message]],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
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
        self,
        messages: str | list[Message] | list[list[Message]],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
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

        The other parameters are the fields of ChatOptions and of SamplingParams, which describe them; the latter
        override those of sampling_params.

        Raises RequestError for a request that cannot be served, EngineStopped after `close`, GenerationFailed if the
        engine could not finish.
        """
        sampling, options = sampling_options(locals()), chat_options(locals())
        conversations, are_several = parse_conversations(messages)
        all_params = parse_sampling_params(sampling_params, sampling, len(conversations))
        streams = [
            self._answer_chat(conversation, params, options)
            for conversation, params in zip(conversations, all_params, strict=True)
        ]
        completions = self._blocking_client.run(streams, show_progress=self._shows_progress(use_tqdm, streams))
        return completions if are_several else completions[0]

    @check_keywords(explain_request_option)
    def stream(
        self,
        prompt: Prompt | list[Message],
        sampling_params: Params | None = None,
        *,
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

        The other parameters are the fields of ChatOptions, which apply to messages alone, and of SamplingParams, which
        override those of sampling_params.

        Raises as `generate` and `chat` do, on the first piece at the latest.
        """
        sampling, options = sampling_options(locals()), chat_options(locals())
        [params] = parse_sampling_params(sampling_params, sampling, 1)
        if is_conversation(prompt):
            [conversation], _ = parse_conversations(prompt)
            return self._blocking_client.iterate(self._answer_chat(conversation, params, options))
        [text] = parse_prompts(prompt)
        return self._blocking_client.iterate(self._complete_text(text, params))

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text. Raises EngineStopped after `close`."""
        return self._client.prompts.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises EngineStopped after `close`."""
        return self._client.tokenizer.decode(token_ids)

    def stats(self) -> StatsSnapshot:
        """Return the engine's metrics. Raises EngineStopped after `close`."""
        return self._client.stats()

    def close(self) -> None:
        """End the engine and return its memory, the device's and the process's. Idempotent."""
        self._blocking_client.close()

    @property
    def _client(self) -> EngineClient:
        return self._blocking_client.client

    def _complete_text(self, prompt: str | list[int], params: SamplingParams) -> OutputStream:
        """Create the stream of a continued text. The grammar that several prompts share is compiled once."""
        client = self._client
        params = apply_defaults(params, client.defaults, max_tokens=MAX_TEXT_TOKENS)
        ids = client.prompts.encode(prompt, counting=_truncates(params)) if isinstance(prompt, str) else prompt
        return self._create_stream(ids, params, client.output_planner.plan(params, prompt_ids=ids))

    def _answer_chat(self, messages: list[Message], params: SamplingParams, options: ChatOptions) -> OutputStream:
        client = self._client
        max_tokens = min(MAX_CHAT_TOKENS, self._config.max_model_len or MAX_CHAT_TOKENS)
        params = apply_defaults(
            params, client.defaults, max_tokens=max_tokens, repetition_detection=REPETITION_DETECTION
        )
        check_tools(options.tools)
        tools, kwargs = options.tools or (), dict(options.chat_template_kwargs or {})
        prompt = client.prompts.render_chat(
            messages,
            tools=options.tools,
            documents=options.documents,
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
            chat_template=options.chat_template,
            template_kwargs=kwargs,
            counting=_truncates(params),
        )
        default_choice = "auto" if tools and client.output_planner.tool_parser.name else "none"
        spec = ChatOutputSpec(
            tools=tuple(tools),
            tool_choice=options.tool_choice or default_choice,
            enable_thinking=kwargs.get("enable_thinking", kwargs.get("thinking")),
            prompt_text=prompt.text,
            num_past_tool_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
        )
        return self._create_stream(prompt.token_ids, params, client.output_planner.plan(params, spec))

    def _create_stream(self, prompt_ids: list[int], params: SamplingParams, plan: OutputPlan) -> OutputStream:
        return self._client.create_stream(*self._client.truncate_and_validate(prompt_ids, params), plan)

    def _shows_progress(self, use_tqdm: bool, streams: Sequence[OutputStream]) -> bool:
        return use_tqdm and not self._is_quiet and len(streams) > 1


def _truncates(params: SamplingParams) -> bool:
    """Whether a prompt may be longer than what is read of it."""
    return params.truncate_prompt_tokens is not None
