"""The notebook's door: LLM.generate, LLM.chat and LLM.stream, blocking. Works inside a running event loop."""

import queue
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from jaxserve.answer import Answer
from jaxserve.answer_format import AnswerFormat, ToolChoice
from jaxserve.bars import Bars
from jaxserve.config import EngineConfig
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

Prompt = str | Sequence[int]
Messages = list[dict[str, Any]]


class LLM:
    """A model in this process.

    >>> with LLM() as llm:
    ...     print(llm.chat([{"role": "user", "content": "What is the capital of Japan?"}]).text)

    model is what EngineConfig.model takes, and settings are its other fields; quiet shows no progress bars.
    Raises StartupError.
    """

    def __init__(self, model: str | None = None, *, quiet: bool = False, **settings: Any) -> None:
        config = EngineConfig(**settings) if model is None else EngineConfig(model=model, **settings)
        self._mail: dict[int, queue.SimpleQueue[TokenOutput]] = {}
        with closing(Bars()) as bars:
            self._model = ServedModel.load(config, self._deliver, None if quiet else bars)

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> EngineConfig:
        """As resolved: every limit is a number."""
        return self._model.config

    @property
    def description(self) -> dict[str, str]:
        return self._model.description

    def generate(self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None) -> list[Completion]:
        """Continues prompts (texts, or lists of token ids), all at once. One completion per prompt, in order."""
        many = [prompts] if isinstance(prompts, str) or _is_ids(prompts) else prompts
        params = params or self._model.defaults.params
        return self._collect([self._continue(prompt, params) for prompt in many])  # type: ignore[arg-type]

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice | None = None,
        **how: Any,
    ) -> Completion:
        """Answers a conversation: content, reasoning and tool calls, each in its place.

        tool_choice   default: auto if there are tools, and it is known how the model calls them
        how           for the chat template: tools, add_generation_prompt, template_kwargs, …
        """
        return self._collect([self._answer(messages, params, tool_choice, how)])[0]

    def stream(
        self,
        prompt: str | Messages,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice | None = None,
        **how: Any,
    ) -> Iterator[TextDelta]:
        """The same, piece by piece: a text is continued, messages are answered. Leaving the loop aborts."""
        if isinstance(prompt, str):
            params = params or self._model.defaults.params
            answer = self._continue(prompt, params)
        else:
            answer = self._answer(prompt, params, tool_choice, how)
        box = self._start([answer])
        try:
            while answer.unfinished:
                delta = self._receive(answer, box.get())
                if delta is not None:
                    yield delta
        finally:
            self._forget([answer])

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._model.prompts.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._model.tokenizer.decode(token_ids)

    def stats(self) -> StatsSnapshot:
        return self._model.stats()

    def close(self) -> None:
        """Ends the engine and frees device memory. A second call does nothing."""
        self._model.close()

    def _ids(self, prompt: Prompt, params: SamplingParams) -> list[int]:
        return self._model.prompts.encode(prompt, counting=_cuts(params)) if isinstance(prompt, str) else list(prompt)

    def _answer(
        self,
        messages: Messages,
        params: SamplingParams | None,
        tool_choice: ToolChoice | None,
        how: dict[str, Any],
    ) -> Answer:
        params = params or self._model.defaults.params
        prompt = self._model.prompts.render_chat(messages, counting=_cuts(params), **how)
        tools, kwargs = how.get("tools") or (), how.get("template_kwargs") or {}
        default = "auto" if tools and self._model.preparer.tool_parser.name else "none"
        format = AnswerFormat(
            tools=tuple(tools),
            tool_choice=tool_choice or default,
            thinking=kwargs.get("enable_thinking", kwargs.get("thinking")),
            prompt_text=prompt.text,
            num_past_calls=sum(len(message.get("tool_calls") or ()) for message in messages),
        )
        return self._open(prompt.token_ids, params, self._model.preparer.prepare(params, format))

    def _continue(self, prompt: Prompt, params: SamplingParams) -> Answer:
        """Opens an answer of plain text. What several prompts share of its preparation is cached: their grammar."""
        ids = self._ids(prompt, params)
        return self._open(ids, params, self._model.preparer.prepare(params, prompt_ids=ids))

    def _open(self, prompt_ids: list[int], params: SamplingParams, prepared: Prepared) -> Answer:
        return self._model.open(*self._model.fit(prompt_ids, params), prepared)

    def _collect(self, answers: list[Answer]) -> list[Completion]:
        of = {choice_id: at for at, answer in enumerate(answers) for choice_id in answer.choice_ids}
        deltas: list[list[TextDelta]] = [[] for _ in answers]
        box = self._start(answers)
        try:
            while any(answer.unfinished for answer in answers):
                output = box.get()
                delta = self._receive(answers[of[output.request_id]], output)
                if delta is not None:
                    deltas[of[output.request_id]].append(delta)
        finally:
            self._forget(answers)
        return [_completion(answer, news) for answer, news in zip(answers, deltas, strict=True)]

    def _start(self, answers: Sequence[Answer]) -> "queue.SimpleQueue[TokenOutput]":
        """One mailbox for all these answers; several threads may use one LLM, each with mailboxes of its own."""
        box: queue.SimpleQueue[TokenOutput] = queue.SimpleQueue()
        for answer in answers:
            self._mail.update(dict.fromkeys(answer.unfinished, box))
        for answer in answers:
            self._model.start(answer)
        return box

    def _receive(self, answer: Answer, output: TokenOutput) -> TextDelta | None:
        delta, ends_early = answer.receive(output)
        if ends_early:
            self._model.end([output.request_id], FinishReason.STOP)
        return delta

    def _forget(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for choice_id in answer.choice_ids:
                self._mail.pop(choice_id, None)
            self._model.end(list(answer.unfinished))

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            self._model.heard(output)
            box = self._mail.get(output.request_id)
            if box is not None:
                box.put(output)


def _cuts(params: SamplingParams) -> bool:
    """Whether a prompt may be longer than what is read of it."""
    return params.truncate_prompt_tokens is not None


def _is_ids(prompts: Any) -> bool:
    return len(prompts) > 0 and isinstance(prompts[0], int)


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
