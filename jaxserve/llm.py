"""LLM for notebooks and scripts: generate, chat and stream, blocking. Works inside a running event loop."""

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from html import escape
from typing import Any, Unpack, overload

from tqdm.auto import tqdm

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.engine_client import EngineClient
from jaxserve.errors import EngineStopped
from jaxserve.llm_inputs import (
    MAX_CHAT_TOKENS,
    MAX_TEXT_TOKENS,
    REPETITION_DETECTION,
    ChatOptions,
    Message,
    Prompt,
    SamplingOptions,
    apply_defaults,
    build_engine_config,
    check_tools,
    is_conversation,
    parse_conversations,
    parse_prompts,
    parse_sampling_params,
    split_options,
)
from jaxserve.memory import return_freed_memory
from jaxserve.output_plan import OutputPlan
from jaxserve.output_stream import OutputStream
from jaxserve.outputs import (
    Choice,
    Completion,
    FinishReason,
    StatsSnapshot,
    TextDelta,
    TokenOutput,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from jaxserve.progress_bars import ProgressBars
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.tokenizer import Tokenizer

Params = SamplingParams | Mapping[str, Any]


class LLM:
    """A model in this process.

    >>> with LLM() as llm:
    ...     print(llm.chat("What is the capital of Japan?", temperature=0).text)

    Fields of SamplingParams that nobody sets take the model's own defaults, as over HTTP. Unless told otherwise, an
    answer of a chat ends after 1,024 tokens or when it repeats itself, and a text that is continued after 16 tokens.
    """

    def __init__(self, model: str | None = None, *, quiet: bool = False, **settings: Any) -> None:
        """Load a model and compile its programs.

        model      what EngineConfig.model takes: a directory, a .gguf file, a hub id; None: the default model
        quiet      show no progress bars, now and later
        settings   the other fields of EngineConfig; vLLM's arguments that change nothing here are accepted

        Raises StartupError, BadConfig for a setting that is not known.
        """
        config = build_engine_config(model, settings)
        self._queues: dict[int, queue.SimpleQueue[TokenOutput]] = {}
        self._is_quiet = quiet
        with closing(ProgressBars()) as bars:
            self._client: EngineClient | None = EngineClient.load(config, self._on_outputs, None if quiet else bars)
        self._config, self._description = self._client.config, self._client.description

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self._config.model!r}{'' if self._client else ', closed'})"

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the facts of the start."""
        rows = "".join(
            f"| {name} | {escape(value).replace('|', '&#124;')} |\n" for name, value in self.description.items()
        )
        return f"| {'' if self._client else 'closed'} | |\n|---|---|\n{rows}"

    @property
    def config(self) -> EngineConfig:
        """As resolved: every limit is a number."""
        return self._config

    @property
    def description(self) -> dict[str, str]:
        """Facts for people, in the order to print them."""
        return self._description

    def get_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer. Raises EngineStopped after `close`."""
        return self._open_client.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the model's own sampling defaults. Raises EngineStopped after `close`."""
        return self._open_client.defaults.params

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Completion]:
        """Continue texts, all at once. One Completion for each prompt, in order.

        prompts           a text, token ids, {"prompt": …} or {"prompt_token_ids": …}, or a list of these
        sampling_params   one for all, or one for each prompt
        use_tqdm          show a progress bar over several prompts
        sampling          fields of SamplingParams, over those of sampling_params

        Raises RequestError for what cannot be served, EngineStopped after `close`, GenerationFailed.
        """
        many = parse_prompts(prompts)
        wanted = parse_sampling_params(sampling_params, sampling, len(many))
        answers = [self._complete_text(prompt, params) for prompt, params in zip(many, wanted, strict=True)]
        return self._run_to_end(answers, use_tqdm)

    @overload
    def chat(
        self,
        messages: str | list[Message],
        sampling_params: Params | None = None,
        *,
        use_tqdm: bool = True,
        **options: Unpack[ChatOptions],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: list[list[Message]],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
        **options: Unpack[ChatOptions],
    ) -> list[Completion]: ...
    def chat(
        self,
        messages: str | list[Message] | list[list[Message]],
        sampling_params: Params | Sequence[Params] | None = None,
        *,
        use_tqdm: bool = True,
        **options: Unpack[ChatOptions],
    ) -> Completion | list[Completion]:
        """Answer a conversation, or several at once: content, reasoning and tool calls, each in its place.

        messages          a text (one message of the user), messages, or a list of conversations: these have a list of
                          Completions, one alone has one
        sampling_params   one for all, or one for each conversation
        use_tqdm          show a progress bar over several conversations
        options           what ChatOptions lists: for the template, and fields of SamplingParams

        Raises RequestError for what cannot be served, EngineStopped after `close`, GenerationFailed.
        """
        conversations, are_many = parse_conversations(messages)
        for_template, sampling = split_options(options)
        wanted = parse_sampling_params(sampling_params, sampling, len(conversations))
        answers = [
            self._answer_chat(conversation, params, for_template)
            for conversation, params in zip(conversations, wanted, strict=True)
        ]
        completions = self._run_to_end(answers, use_tqdm)
        return completions if are_many else completions[0]

    def stream(
        self,
        prompt: Prompt | list[Message],
        sampling_params: Params | None = None,
        **options: Unpack[ChatOptions],
    ) -> Iterator[TextDelta]:
        """Yield the same piece by piece: a prompt is continued, messages are answered. Leaving the loop aborts.

        Raises as `generate` and `chat` do, on the first piece at the latest.
        """
        for_template, sampling = split_options(options)
        [params] = parse_sampling_params(sampling_params, sampling, 1)
        if is_conversation(prompt):
            [conversation], _ = parse_conversations(prompt)
            answer = self._answer_chat(conversation, params, for_template)
        else:
            [text] = parse_prompts(prompt)
            answer = self._complete_text(text, params)
        return self._iterate(answer)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text. Raises EngineStopped after `close`."""
        return self._open_client.prompts.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises EngineStopped after `close`."""
        return self._open_client.tokenizer.decode(token_ids)

    def stats(self) -> StatsSnapshot:
        """Return the engine's numbers. Raises EngineStopped after `close`."""
        return self._open_client.stats()

    def close(self) -> None:
        """End the engine and give its memory back, the device's and the process's. A second call does nothing."""
        model, self._client = self._client, None
        if model is not None:
            model.close()
            del model
            return_freed_memory()

    @property
    def _open_client(self) -> EngineClient:
        if self._client is None:
            raise EngineStopped("This LLM is closed; make another with LLM(…).")
        return self._client

    def _complete_text(self, prompt: str | list[int], params: SamplingParams) -> OutputStream:
        """Opens an answer of plain text. What several prompts share of its preparation is cached: their grammar."""
        model = self._open_client
        params = apply_defaults(params, model.defaults, max_tokens=MAX_TEXT_TOKENS)
        ids = model.prompts.encode(prompt, counting=_truncates(params)) if isinstance(prompt, str) else prompt
        return self._create_stream(ids, params, model.output_planner.plan(params, prompt_ids=ids))

    def _answer_chat(self, messages: list[Message], params: SamplingParams, options: Mapping[str, Any]) -> OutputStream:
        model = self._open_client
        longest = min(MAX_CHAT_TOKENS, self._config.max_model_len or MAX_CHAT_TOKENS)
        params = apply_defaults(params, model.defaults, max_tokens=longest, repetition_detection=REPETITION_DETECTION)
        check_tools(options.get("tools"))
        tools, kwargs = options.get("tools") or (), dict(options.get("chat_template_kwargs") or {})
        prompt = model.prompts.render_chat(
            messages,
            tools=options.get("tools"),
            documents=options.get("documents"),
            add_generation_prompt=options.get("add_generation_prompt", True),
            continue_final_message=options.get("continue_final_message", False),
            chat_template=options.get("chat_template"),
            template_kwargs=kwargs,
            counting=_truncates(params),
        )
        default = "auto" if tools and model.output_planner.tool_parser.name else "none"
        format = ChatOutputSpec(
            tools=tuple(tools),
            tool_choice=options.get("tool_choice") or default,
            enable_thinking=kwargs.get("enable_thinking", kwargs.get("thinking")),
            prompt_text=prompt.text,
            num_past_tool_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
        )
        return self._create_stream(prompt.token_ids, params, model.output_planner.plan(params, format))

    def _create_stream(self, prompt_ids: list[int], params: SamplingParams, output_plan: OutputPlan) -> OutputStream:
        return self._open_client.create_stream(
            *self._open_client.truncate_and_validate(prompt_ids, params), output_plan
        )

    def _run_to_end(self, answers: list[OutputStream], use_tqdm: bool) -> list[Completion]:
        of = {choice_id: at for at, answer in enumerate(answers) for choice_id in answer.choice_ids}
        deltas: list[list[TextDelta]] = [[] for _ in answers]
        shows = use_tqdm and not self._is_quiet and len(answers) > 1
        box = self._submit(answers)
        with tqdm(total=len(answers), desc="answers", disable=not shows) as bar:
            try:
                while any(answer.unfinished_ids for answer in answers):
                    output = box.get()
                    at = of[output.request_id]
                    delta = self._push(answers[at], output)
                    if delta is not None:
                        deltas[at].append(delta)
                    if not answers[at].unfinished_ids:
                        bar.update(sum(not answer.unfinished_ids for answer in answers) - bar.n)
            finally:
                self._release(answers)
        return [_merge_completion(answer, news) for answer, news in zip(answers, deltas, strict=True)]

    def _iterate(self, answer: OutputStream) -> Iterator[TextDelta]:
        box = self._submit([answer])
        try:
            while answer.unfinished_ids:
                delta = self._push(answer, box.get())
                if delta is not None:
                    yield delta
        finally:
            self._release([answer])

    def _submit(self, answers: Sequence[OutputStream]) -> "queue.SimpleQueue[TokenOutput]":
        """One queue for all these answers; several threads may use one LLM, each with queues of its own."""
        box: queue.SimpleQueue[TokenOutput] = queue.SimpleQueue()
        for answer in answers:
            self._queues.update(dict.fromkeys(answer.unfinished_ids, box))
        for answer in answers:
            self._open_client.submit(answer)
        return box

    def _push(self, answer: OutputStream, output: TokenOutput) -> TextDelta | None:
        delta, ends_early = answer.push(output)
        if ends_early and self._client is not None:
            self._client.finish_requests([output.request_id], FinishReason.STOP)
        return delta

    def _release(self, answers: Sequence[OutputStream]) -> None:
        for answer in answers:
            for choice_id in answer.choice_ids:
                self._queues.pop(choice_id, None)
            if self._client is not None:
                self._client.finish_requests(list(answer.unfinished_ids))

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        """On the engine's thread. What comes while the engine ends has no model any more."""
        model = self._client
        for output in outputs:
            if model is not None:
                model.record_output(output)
            box = self._queues.get(output.request_id)
            if box is not None:
                box.put(output)


def _truncates(params: SamplingParams) -> bool:
    """Whether a prompt may be longer than what is read of it."""
    return params.truncate_prompt_tokens is not None


def _merge_completion(answer: OutputStream, deltas: list[TextDelta]) -> Completion:
    choices = tuple(
        _merge_choice(index, [delta for delta in deltas if delta.index == index])
        for index in range(len(answer.choice_ids))
    )
    usage = Usage(
        prompt_tokens=answer.num_prompt_tokens,
        completion_tokens=sum(len(choice.token_ids) for choice in choices),
        cached_tokens=next((delta.num_cached_tokens for delta in deltas if delta.index == 0), 0),
    )
    scores = next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None)
    return Completion(answer.requests[0].prompt_ids, choices, usage, scores)


def _merge_choice(index: int, deltas: list[TextDelta]) -> Choice:
    last = deltas[-1]
    with_logprobs = any(delta.logprobs is not None for delta in deltas)
    return Choice(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        finish_reason=last.finish_reason or FinishReason.ABORT,
        stop_reason=last.stop_reason,
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs or ()) if with_logprobs else None,
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=_merge_tool_calls([news for delta in deltas for news in delta.tool_calls]),
        num_reasoning_tokens=sum(delta.num_reasoning_tokens for delta in deltas),
    )


def _merge_tool_calls(news: list[ToolCallDelta]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(first.id, first.name or "", "".join(one.arguments for one in news if one.index == first.index))
        for first in news
        if first.id is not None
    )
