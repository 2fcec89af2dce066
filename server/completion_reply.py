"""The reply of POST /v1/completions: choices of all prompts, numbered prompt * n + choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve import Logprob, TextDelta, TokenLogprob
from server.errors import ApiError
from server.generation import Generation
from server.jobs import Prompt
from server.logprobs import CompletionLogprobsBuilder
from server.replies import (
    ReplyMetadata,
    TokenCounts,
    UsageTracker,
    in_slices,
    make_metrics,
    render_prompt_logprobs,
    sum_usage,
)
from server.routed_experts import encode_experts
from server.schemas.completions import CompletionRequest
from server.writer import DONE, KEEP_ALIVE, Event

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, Ready

COMPLETION_OBJECT = "text_completion"
LogprobEntry = TokenLogprob | Logprob | None


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """A prompt that is repeated in front of its answers: its text, and its first token, which has no logprob."""

    text: str
    first_token: Logprob

    @classmethod
    def from_prompt(cls, prompt: Prompt, job: Ready, llm: AsyncLLM) -> PromptEcho:
        """Make the echo of a prompt: a text that was read whole as it was sent, else the decoded token ids."""
        ids = job.prompt_ids
        first = llm.decode([ids[0]]).rstrip("\N{REPLACEMENT CHARACTER}")  # the next token completes the character
        text = prompt if isinstance(prompt, str) and not job.is_truncated else llm.decode(ids)
        return cls(text, Logprob(ids[0], first, tuple(first.encode()), 0.0))


class CompletionWriter:
    """A writer of completions."""

    end = DONE
    keep_alive = KEEP_ALIVE

    def __init__(
        self, request: CompletionRequest, metadata: ReplyMetadata, generation: Generation, echoes: Sequence[PromptEcho]
    ) -> None:
        """echoes: one for each prompt, or none at all."""
        self._request = request
        self._metadata = metadata
        self._generation = generation
        self._echoes = echoes
        self._logprob_builders: dict[int, CompletionLogprobsBuilder] = {}
        self._usage = UsageTracker(request, metadata, generation)
        self._started: set[int] = set()
        self._shows_tokens = request.logprobs is not None or bool(request.return_token_ids)

    async def write_whole(self) -> dict[str, Any]:
        """Wait for all choices, and make the reply in one object. Raises ApiError if the generation failed."""
        choices = await self._generation.collect()
        counts = TokenCounts.from_deltas(choices)
        return {
            **self._metadata.common_fields(COMPLETION_OBJECT),
            "choices": [await self._render_choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._metadata.fingerprint,
            "usage": sum_usage(self._metadata, self._generation, counts),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": make_metrics(self._metadata, self._generation, counts.num_tokens),
        }

    async def _render_choice(self, choice: TextDelta) -> dict[str, Any]:
        num_prompt_logprobs = self._request.prompt_logprobs
        prompt_logprobs = None
        if num_prompt_logprobs is not None:
            prompt_logprobs = await self._render_prompt_logprobs(choice.index, num_prompt_logprobs)
        return {
            "index": choice.index,
            "text": self._render_text(choice, is_first=True),
            "logprobs": None if self._request.logprobs is None else await self._render_whole_logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._request.return_token_ids else None,
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": self._get_prompt_token_ids(choice.index),
            "routed_experts": await encode_experts(choice.routed_experts),
        }

    async def _render_whole_logprobs(self, choice: TextDelta) -> dict[str, list[Any]]:
        builder = self._get_logprobs_builder(choice.index)
        tables = await in_slices(self._select_logprobs(choice, is_first=True), lambda part: [builder.build(part)])
        return {key: [value for table in tables for value in table[key]] for key in builder.build(())}

    async def _render_prompt_logprobs(self, index: int, num_prompt_logprobs: int) -> list[dict[str, Any] | None] | None:
        prompt_index = self._generation.get_prompt_index(index)
        computed = self._generation.jobs[prompt_index].params.prompt_logprobs or 0
        return await render_prompt_logprobs(
            self._generation.prompt_results[prompt_index].logprobs,
            computed if num_prompt_logprobs == -1 else num_prompt_logprobs,
        )

    def opening(self) -> list[Event]:
        """Return no events: an echo stands in the first chunk of each choice."""
        return []

    def delta(self, delta: TextDelta) -> list[Event]:
        """Make one chunk, or none if there is nothing to show. The first of a choice has the echo."""
        is_first, is_last = delta.index not in self._started, delta.finish_reason is not None
        self._usage.count(delta)
        has_content = delta.text or (self._shows_tokens and delta.token_ids) or (is_first and self._echoes)
        if not (has_content or is_last):
            return []
        self._started.add(delta.index)
        choice: dict[str, Any] = {
            "index": delta.index,
            "text": self._render_text(delta, is_first),
            "logprobs": self._render_logprobs(delta, is_first),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self._request.return_token_ids:
            choice["token_ids"] = list(delta.token_ids)
            if is_first:
                choice["prompt_token_ids"] = self._get_prompt_token_ids(delta.index)
        chunk = {**self._metadata.common_fields(COMPLETION_OBJECT), "choices": [choice]}
        return [Event(None, self._usage.annotate(chunk, delta.index, is_last=is_last))]

    def _render_logprobs(self, delta: TextDelta, is_first: bool) -> dict[str, list[Any]] | None:
        if self._request.logprobs is None:
            return None
        return self._get_logprobs_builder(delta.index).build(self._select_logprobs(delta, is_first))

    def closing(self) -> list[Event]:
        """Make the usage chunk, if the stream has one."""
        return self._usage.closing(COMPLETION_OBJECT)

    def failure(self, error: ApiError) -> list[Event]:
        """Make an event of the error's body."""
        return [Event(None, error.body)]

    def _render_text(self, delta: TextDelta, is_first: bool) -> str:
        return self._get_echo(delta.index).text + delta.text if is_first and self._echoes else delta.text

    def _select_logprobs(self, delta: TextDelta, is_first: bool) -> Sequence[LogprobEntry]:
        """Select the logprobs of this delta: its tokens', and before its choice's first those of an echoed prompt."""
        entries = delta.logprobs or ()
        return [*self._get_prompt_logprobs(delta.index), *entries] if is_first and self._echoes else entries

    def _get_logprobs_builder(self, index: int) -> CompletionLogprobsBuilder:
        k = self._generation.jobs[0].params.logprobs or 0
        return self._logprob_builders.setdefault(index, CompletionLogprobsBuilder(k, self._metadata.tokens_as_ids))

    def _get_prompt_token_ids(self, index: int) -> list[int] | None:
        if not self._request.return_token_ids:
            return None
        return list(self._generation.jobs[self._generation.get_prompt_index(index)].prompt_ids)

    def _get_echo(self, index: int) -> PromptEcho:
        return self._echoes[self._generation.get_prompt_index(index)]

    def _get_prompt_logprobs(self, index: int) -> list[LogprobEntry]:
        entries = self._generation.prompt_results[self._generation.get_prompt_index(index)].logprobs or (None,)
        return [self._get_echo(index).first_token, *entries[1:]]
