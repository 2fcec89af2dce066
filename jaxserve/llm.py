"""LLM for notebooks and scripts: generate, chat and stream, blocking. Works inside a running event loop."""

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from html import escape
from typing import Any, Unpack, overload

from tqdm.auto import tqdm

from jaxserve.answer import Answer
from jaxserve.answer_format import AnswerFormat
from jaxserve.bars import Bars
from jaxserve.config import EngineConfig
from jaxserve.errors import EngineStopped
from jaxserve.llm_inputs import (
    MAX_CHAT_TOKENS,
    MAX_TEXT_TOKENS,
    REPETITION_DETECTION,
    ChatOptions,
    Message,
    Prompt,
    SamplingOptions,
    check_tools,
    conversations_of,
    engine_config,
    is_conversation,
    over_defaults,
    params_of,
    prompts_of,
    split_options,
)
from jaxserve.memory import return_freed_memory
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
from jaxserve.preparing import Prepared
from jaxserve.sampling_params import SamplingParams
from jaxserve.served import ServedModel
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
        config = engine_config(model, settings)
        self._mail: dict[int, queue.SimpleQueue[TokenOutput]] = {}
        self._is_quiet = quiet
        with closing(Bars()) as bars:
            self._model: ServedModel | None = ServedModel.load(config, self._deliver, None if quiet else bars)
        self._config, self._description = self._model.config, self._model.description

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self._config.model!r}{'' if self._model else ', closed'})"

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the facts of the start."""
        rows = "".join(
            f"| {name} | {escape(value).replace('|', '&#124;')} |\n" for name, value in self.description.items()
        )
        return f"| {'' if self._model else 'closed'} | |\n|---|---|\n{rows}"

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
        return self._served.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the model's own sampling defaults. Raises EngineStopped after `close`."""
        return self._served.defaults.params

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
        many = prompts_of(prompts)
        wanted = params_of(sampling_params, sampling, len(many))
        answers = [self._continue(prompt, params) for prompt, params in zip(many, wanted, strict=True)]
        return self._collect(answers, use_tqdm)

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
        conversations, are_many = conversations_of(messages)
        for_template, sampling = split_options(options)
        wanted = params_of(sampling_params, sampling, len(conversations))
        answers = [
            self._answer(conversation, params, for_template)
            for conversation, params in zip(conversations, wanted, strict=True)
        ]
        completions = self._collect(answers, use_tqdm)
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
        [params] = params_of(sampling_params, sampling, 1)
        if is_conversation(prompt):
            [conversation], _ = conversations_of(prompt)
            answer = self._answer(conversation, params, for_template)
        else:
            [text] = prompts_of(prompt)
            answer = self._continue(text, params)
        return self._deltas(answer)

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text. Raises EngineStopped after `close`."""
        return self._served.prompts.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises EngineStopped after `close`."""
        return self._served.tokenizer.decode(token_ids)

    def stats(self) -> StatsSnapshot:
        """Return the engine's numbers. Raises EngineStopped after `close`."""
        return self._served.stats()

    def close(self) -> None:
        """End the engine and give its memory back, the device's and the process's. A second call does nothing."""
        model, self._model = self._model, None
        if model is not None:
            model.close()
            del model
            return_freed_memory()

    @property
    def _served(self) -> ServedModel:
        if self._model is None:
            raise EngineStopped("This LLM is closed; make another with LLM(…).")
        return self._model

    def _continue(self, prompt: str | list[int], params: SamplingParams) -> Answer:
        """Opens an answer of plain text. What several prompts share of its preparation is cached: their grammar."""
        model = self._served
        params = over_defaults(params, model.defaults, max_tokens=MAX_TEXT_TOKENS)
        ids = model.prompts.encode(prompt, counting=_cuts(params)) if isinstance(prompt, str) else prompt
        return self._open(ids, params, model.preparer.prepare(params, prompt_ids=ids))

    def _answer(self, messages: list[Message], params: SamplingParams, options: Mapping[str, Any]) -> Answer:
        model = self._served
        longest = min(MAX_CHAT_TOKENS, self._config.max_model_len or MAX_CHAT_TOKENS)
        params = over_defaults(params, model.defaults, max_tokens=longest, repetition_detection=REPETITION_DETECTION)
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
            counting=_cuts(params),
        )
        default = "auto" if tools and model.preparer.tool_parser.name else "none"
        format = AnswerFormat(
            tools=tuple(tools),
            tool_choice=options.get("tool_choice") or default,
            thinking=kwargs.get("enable_thinking", kwargs.get("thinking")),
            prompt_text=prompt.text,
            num_past_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
        )
        return self._open(prompt.token_ids, params, model.preparer.prepare(params, format))

    def _open(self, prompt_ids: list[int], params: SamplingParams, prepared: Prepared) -> Answer:
        return self._served.open(*self._served.fit(prompt_ids, params), prepared)

    def _collect(self, answers: list[Answer], use_tqdm: bool) -> list[Completion]:
        of = {choice_id: at for at, answer in enumerate(answers) for choice_id in answer.choice_ids}
        deltas: list[list[TextDelta]] = [[] for _ in answers]
        shows = use_tqdm and not self._is_quiet and len(answers) > 1
        box = self._start(answers)
        with tqdm(total=len(answers), desc="answers", disable=not shows) as bar:
            try:
                while any(answer.unfinished for answer in answers):
                    output = box.get()
                    at = of[output.request_id]
                    delta = self._receive(answers[at], output)
                    if delta is not None:
                        deltas[at].append(delta)
                    if not answers[at].unfinished:
                        bar.update(sum(not answer.unfinished for answer in answers) - bar.n)
            finally:
                self._forget(answers)
        return [_completion(answer, news) for answer, news in zip(answers, deltas, strict=True)]

    def _deltas(self, answer: Answer) -> Iterator[TextDelta]:
        box = self._start([answer])
        try:
            while answer.unfinished:
                delta = self._receive(answer, box.get())
                if delta is not None:
                    yield delta
        finally:
            self._forget([answer])

    def _start(self, answers: Sequence[Answer]) -> "queue.SimpleQueue[TokenOutput]":
        """One queue for all these answers; several threads may use one LLM, each with queues of its own."""
        box: queue.SimpleQueue[TokenOutput] = queue.SimpleQueue()
        for answer in answers:
            self._mail.update(dict.fromkeys(answer.unfinished, box))
        for answer in answers:
            self._served.start(answer)
        return box

    def _receive(self, answer: Answer, output: TokenOutput) -> TextDelta | None:
        delta, ends_early = answer.receive(output)
        if ends_early and self._model is not None:
            self._model.end([output.request_id], FinishReason.STOP)
        return delta

    def _forget(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for choice_id in answer.choice_ids:
                self._mail.pop(choice_id, None)
            if self._model is not None:
                self._model.end(list(answer.unfinished))

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        """On the engine's thread. What comes while the engine ends has no model any more."""
        model = self._model
        for output in outputs:
            if model is not None:
                model.heard(output)
            box = self._mail.get(output.request_id)
            if box is not None:
                box.put(output)


def _cuts(params: SamplingParams) -> bool:
    """Whether a prompt may be longer than what is read of it."""
    return params.truncate_prompt_tokens is not None


def _completion(answer: Answer, deltas: list[TextDelta]) -> Completion:
    choices = tuple(
        _choice(index, [delta for delta in deltas if delta.index == index]) for index in range(len(answer.choice_ids))
    )
    usage = Usage(
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=sum(len(choice.token_ids) for choice in choices),
        cached_tokens=next((delta.num_cached_tokens for delta in deltas if delta.index == 0), 0),
    )
    scores = next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None)
    return Completion(answer.requests[0].prompt_ids, choices, usage, scores)


def _choice(index: int, deltas: list[TextDelta]) -> Choice:
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
        tool_calls=_calls([news for delta in deltas for news in delta.tool_calls]),
        num_reasoning_tokens=sum(delta.num_reasoning_tokens for delta in deltas),
    )


def _calls(news: list[ToolCallDelta]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(first.id, first.name or "", "".join(one.arguments for one in news if one.index == first.index))
        for first in news
        if first.id is not None
    )
