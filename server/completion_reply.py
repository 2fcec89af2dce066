"""The answer of POST /v1/completions: choices of all prompts, numbered prompt * n + choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve import Logprob, TextDelta, TokenLogprob
from server.logprobs import CompletionLogprobs
from server.replies import Frame, Generated, UsageKeeper, gently, total_usage, whole_prompt_table
from server.runs import Job, Run
from server.schemas.completions import CompletionRequest
from server.translate import Prompt

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

KIND = "text_completion"
Entry = TokenLogprob | Logprob | None


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt repeated in front of its answers: its text, and its first token, which has no logprob."""

    text: str
    first: Logprob

    @classmethod
    def of(cls, prompt: Prompt, job: Job, llm: AsyncLLM) -> Echo:
        """A text that was read as a whole comes back as it was sent; else ids are decoded, special tokens shown."""
        ids = job.prompt_ids
        first = llm.decode([ids[0]]).rstrip("\N{REPLACEMENT CHARACTER}")  # the next token completes the character
        text = prompt if isinstance(prompt, str) and not job.is_cut else llm.decode(ids)
        return cls(text, Logprob(ids[0], first, tuple(first.encode()), 0.0))


class _Choices:
    """What the whole answer and the stream have in common."""

    def __init__(self, request: CompletionRequest, frame: Frame, run: Run, echoes: Sequence[Echo]) -> None:
        """echoes: one for each prompt, or none at all."""
        self._request, self._frame, self._run, self._echoes = request, frame, run, echoes
        self._arrays: dict[int, CompletionLogprobs] = {}

    def text(self, delta: TextDelta, is_first: bool) -> str:
        return self._echo(delta.index).text + delta.text if is_first and self._echoes else delta.text

    def entries(self, delta: TextDelta, is_first: bool) -> Sequence[Entry]:
        """What this delta's logprobs are about: its tokens, and before the first ones those of an echoed prompt."""
        own = delta.logprobs or ()
        return [*self._of_prompt(delta.index), *own] if is_first and self._echoes else own

    def arrays(self, index: int) -> CompletionLogprobs:
        k = self._run.jobs[0].params.logprobs or 0
        return self._arrays.setdefault(index, CompletionLogprobs(k, self._frame.tokens_as_ids))

    def prompt_ids(self, index: int) -> list[int] | None:
        if not self._request.return_token_ids:
            return None
        return list(self._run.jobs[self._run.prompt_of(index)].prompt_ids)

    def _echo(self, index: int) -> Echo:
        return self._echoes[self._run.prompt_of(index)]

    def _of_prompt(self, index: int) -> list[Entry]:
        known = self._run.prompts[self._run.prompt_of(index)].logprobs or (None,)
        return [self._echo(index).first, *known[1:]]


class CompletionReply(_Choices):
    """The whole answer at once."""

    async def whole(self) -> dict[str, Any]:
        """Waits for all choices. Raises what ended the run."""
        choices = await self._run.whole()
        return {
            **self._frame.head(KIND),
            "choices": [await self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._frame.fingerprint,
            "usage": total_usage(self._frame, self._run, Generated.of(choices)),
            "kv_transfer_params": None,
        }

    async def _choice(self, choice: TextDelta) -> dict[str, Any]:
        asked = self._request.prompt_logprobs
        return {
            "index": choice.index,
            "text": self.text(choice, is_first=True),
            "logprobs": None if self._request.logprobs is None else await self._logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._request.return_token_ids else None,
            "prompt_logprobs": None if asked is None else await self._prompt_table(choice.index, asked),
            "prompt_token_ids": self.prompt_ids(choice.index),
        }

    async def _logprobs(self, choice: TextDelta) -> dict[str, list[Any]]:
        arrays = self.arrays(choice.index)
        tables = await gently(self.entries(choice, is_first=True), lambda part: [arrays.arrays(part)])
        return {key: [one for table in tables for one in table[key]] for key in arrays.arrays(())}

    async def _prompt_table(self, index: int, asked: int) -> list[dict[str, Any] | None] | None:
        number = self._run.prompt_of(index)
        computed = self._run.jobs[number].params.prompt_logprobs or 0
        return await whole_prompt_table(self._run.prompts[number].logprobs, computed if asked == -1 else asked)


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
            "logprobs": self._logprobs(delta, is_first),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self._request.return_token_ids:
            choice["token_ids"] = list(delta.token_ids)
            if is_first:
                choice["prompt_token_ids"] = self.prompt_ids(delta.index)
        return [self._usage.add({**self._frame.head(KIND), "choices": [choice]}, delta.index, is_last=is_last)]

    def _logprobs(self, delta: TextDelta, is_first: bool) -> dict[str, list[Any]] | None:
        if self._request.logprobs is None:
            return None
        return self.arrays(delta.index).arrays(self.entries(delta, is_first))

    def closing(self) -> list[dict[str, Any]]:
        return self._usage.closing(KIND)
