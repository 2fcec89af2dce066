"""The answer of POST /v1/completions: choices of all prompts, numbered prompt * n + choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve import Logprob, TextDelta, TokenLogprob
from server.logprobs import CompletionLogprobs, prompt_table
from server.replies import Frame, UsageKeeper, total_usage
from server.runs import Run
from server.schemas.completions import CompletionRequest
from server.translate import Prompt

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

KIND = "text_completion"


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt repeated in front of its answers: its text, and its first token, which has no logprob."""

    text: str
    first: Logprob

    @classmethod
    def of(cls, prompt: Prompt, ids: Sequence[int], llm: AsyncLLM) -> Echo:
        """A text comes back as it was sent; ids are decoded, special tokens shown."""
        first = llm.decode([ids[0]])
        text = prompt if isinstance(prompt, str) else llm.decode(ids)
        return cls(text, Logprob(ids[0], first, tuple(first.encode()), 0.0))


class _Choices:
    """What the whole answer and the stream have in common."""

    def __init__(self, request: CompletionRequest, frame: Frame, run: Run, echoes: Sequence[Echo]) -> None:
        """echoes: one for each prompt, or none at all."""
        self._request, self._frame, self._run, self._echoes = request, frame, run, echoes
        self._arrays: dict[int, CompletionLogprobs] = {}

    def text(self, delta: TextDelta, is_first: bool) -> str:
        return self._echo(delta.index).text + delta.text if is_first and self._echoes else delta.text

    def logprobs(self, delta: TextDelta, is_first: bool) -> dict[str, Any] | None:
        if self._request.logprobs is None:
            return None
        entries: list[TokenLogprob | Logprob | None] = list(delta.logprobs or ())
        if is_first and self._echoes:
            entries = [*self._of_prompt(delta.index), *entries]
        k = self._run.jobs[0].params.logprobs or 0
        arrays = self._arrays.setdefault(delta.index, CompletionLogprobs(k, self._frame.tokens_as_ids))
        return arrays.arrays(entries)

    def prompt_ids(self, index: int) -> list[int] | None:
        if not self._request.return_token_ids:
            return None
        return list(self._run.jobs[self._run.prompt_of(index)].prompt_ids)

    def _echo(self, index: int) -> Echo:
        return self._echoes[self._run.prompt_of(index)]

    def _of_prompt(self, index: int) -> list[TokenLogprob | Logprob | None]:
        known = self._run.prompts[self._run.prompt_of(index)].logprobs or (None,)
        return [self._echo(index).first, *known[1:]]


class CompletionReply(_Choices):
    """The whole answer at once."""

    async def whole(self) -> dict[str, Any]:
        """Waits for all choices. Raises what ended the run."""
        choices = await self._run.whole()
        return {
            **self._frame.head(KIND),
            "choices": [self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._frame.fingerprint,
            "usage": total_usage(self._frame, self._run, sum(len(choice.token_ids) for choice in choices)),
            "kv_transfer_params": None,
        }

    def _choice(self, choice: TextDelta) -> dict[str, Any]:
        asked = self._request.prompt_logprobs
        return {
            "index": choice.index,
            "text": self.text(choice, is_first=True),
            "logprobs": self.logprobs(choice, is_first=True),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._request.return_token_ids else None,
            "prompt_logprobs": None if asked is None else self._prompt_table(choice.index, asked),
            "prompt_token_ids": self.prompt_ids(choice.index),
        }

    def _prompt_table(self, index: int, asked: int) -> list[dict[str, Any] | None] | None:
        number = self._run.prompt_of(index)
        computed = self._run.jobs[number].params.prompt_logprobs or 0
        return prompt_table(self._run.prompts[number].logprobs, computed if asked == -1 else asked)


class CompletionStream(_Choices):
    """The answer chunk by chunk."""

    def __init__(self, request: CompletionRequest, frame: Frame, run: Run, echoes: Sequence[Echo]) -> None:
        super().__init__(request, frame, run, echoes)
        self._usage = UsageKeeper(request, frame, run)
        self._begun: set[int] = set()
        self._tells_tokens = request.logprobs is not None or bool(request.return_token_ids)

    def opening(self) -> list[dict[str, Any]]:
        return []

    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]:
        """One chunk; none when nothing can be told yet. The first of a choice carries the echo."""
        is_first, is_last = delta.index not in self._begun, delta.finish_reason is not None
        self._usage.count(delta)
        has_news = delta.text or (self._tells_tokens and delta.token_ids) or (is_first and self._echoes)
        if not (has_news or is_last):
            return []
        self._begun.add(delta.index)
        choice: dict[str, Any] = {
            "index": delta.index,
            "text": self.text(delta, is_first),
            "logprobs": self.logprobs(delta, is_first),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self._request.return_token_ids:
            choice["token_ids"] = list(delta.token_ids)
            if is_first:
                choice["prompt_token_ids"] = self.prompt_ids(delta.index)
        return [self._usage.add({**self._frame.head(KIND), "choices": [choice]}, delta.index, is_last=is_last)]

    def closing(self) -> list[dict[str, Any]]:
        return self._usage.closing(KIND)
