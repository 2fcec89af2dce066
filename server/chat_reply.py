"""The reply about conversations: one object, or of one conversation a stream of role, echo, delta, finish and usage."""

from collections.abc import Sequence
from typing import Any

from jaxserve import TextDelta
from server.chat_message import MessageRenderer
from server.config import ServerConfig
from server.errors import ApiError
from server.generation import Generation
from server.logprobs import render_chat_logprobs
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
from server.schemas.chat import ChatRequest
from server.schemas.tools import resolve_tool_choice
from server.tool_metrics import ToolMetrics
from server.writer import DONE, KEEP_ALIVE, Event

COMPLETION_OBJECT, CHUNK_OBJECT = "chat.completion", "chat.completion.chunk"


def make_message_renderer(request: ChatRequest, config: ServerConfig) -> MessageRenderer:
    """Make the renderer of a request's answers. With echo, they begin with the last message if it has the same role."""
    role, last = request.get_response_role(config.response_role), request.messages[-1]
    return MessageRenderer(
        role=role,
        echo=(last.text if last.role == role else "") if request.echo else None,
        tool_choice=resolve_tool_choice(request),
        shows_reasoning=request.shows_reasoning,
        has_legacy_reasoning=config.legacy_reasoning_content,
    )


class ChatWriter:
    """A writer of chat completions; in a stream every generated token appears in exactly one chunk.

    Of several conversations each has its renderer. Nothing is told of their prompts: a reply has a place for one only.
    Where reasoning is left out, token ids and logprobs are, too, since they would show it.
    """

    end = DONE
    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        request: ChatRequest,
        metadata: ReplyMetadata,
        generation: Generation,
        renderers: Sequence[MessageRenderer],
        tool_metrics: ToolMetrics,
    ) -> None:
        self._request = request
        self._metadata = metadata
        self._generation = generation
        self._renderers = renderers
        self._tool_metrics = tool_metrics
        shows_tokens = renderers[0].shows_reasoning or not metadata.counts_reasoning
        self._shows_logprobs = bool(request.logprobs) and shows_tokens
        self._shows_token_ids = bool(request.return_token_ids) and shows_tokens
        self._usage = UsageTracker(request, metadata, generation)

    @property
    def _prompt_text(self) -> dict[str, str | None]:
        """The field prompt_text, if it was asked for: what the chat template rendered, before any truncation."""
        return {"prompt_text": self._generation.jobs[0].prompt_text} if self._request.return_prompt_text else {}

    def _get_renderer(self, index: int) -> MessageRenderer:
        """Return the renderer of choice `index`."""
        return self._renderers[self._generation.get_prompt_index(index)]

    def _count_tool_calls(self, delta: TextDelta, mode: str) -> None:
        if self._get_renderer(delta.index).tool_choice != "none":
            self._tool_metrics.count(mode, has_call=bool(delta.tool_calls))

    @property
    def _num_top_logprobs(self) -> int:
        return self._generation.jobs[0].params.logprobs or 0

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
            **await self._render_prompt(),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": make_metrics(self._metadata, self._generation, counts.num_tokens),
            **self._prompt_text,
        }

    async def _render_prompt(self) -> dict[str, Any]:
        """Make the fields about the prompt; of several conversations they are null."""
        if len(self._renderers) > 1:
            return {"prompt_logprobs": None, "prompt_token_ids": None}
        job, result = self._generation.jobs[0], self._generation.prompt_results[0]
        return {
            "prompt_logprobs": await render_prompt_logprobs(result.logprobs, job.params.prompt_logprobs or 0),
            "prompt_token_ids": list(job.prompt_ids) if self._request.return_token_ids else None,
        }

    async def _render_choice(self, choice: TextDelta) -> dict[str, Any]:
        self._count_tool_calls(choice, "non_streaming")
        return {
            "index": choice.index,
            "message": self._get_renderer(choice.index).render_message(choice),
            "logprobs": await self._render_logprobs(choice) if self._shows_logprobs else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._shows_token_ids else None,
            "routed_experts": await encode_experts(choice.routed_experts),
        }

    async def _render_logprobs(self, choice: TextDelta) -> dict[str, Any]:
        k, as_ids = self._num_top_logprobs, self._metadata.tokens_as_ids
        return {
            "content": await in_slices(choice.logprobs or (), lambda entries: render_chat_logprobs(entries, k, as_ids))
        }

    def opening(self) -> list[Event]:
        """Make a role chunk for each choice, and behind them the chunks of the echoed text."""
        indices = range(self._generation.num_choices)
        roles = [self._make_chunk(index, {"role": self._get_renderer(index).role, "content": ""}) for index in indices]
        if self._request.return_token_ids:
            for chunk in roles:
                chunk["prompt_token_ids"] = list(self._generation.jobs[0].prompt_ids)
        for chunk in roles:
            chunk |= self._prompt_text
        texts = [(index, self._get_renderer(index).echo) for index in indices]
        echoes = [self._make_chunk(index, {"content": text}) for index, text in texts if text]
        return [Event(None, chunk) for chunk in roles + echoes]

    def delta(self, delta: TextDelta) -> list[Event]:
        """Make one chunk, or none if there is nothing to show.

        Where token ids or logprobs are shown, every delta with tokens has a chunk.
        """
        is_last = delta.finish_reason is not None
        self._usage.count(delta)
        self._count_tool_calls(delta, "streaming")
        rendered = self._get_renderer(delta.index).render_delta(delta)
        if not rendered and delta.token_ids and (self._shows_logprobs or self._shows_token_ids):
            rendered = {"content": ""}
        if not (rendered or is_last):
            return []
        chunk = self._make_chunk(delta.index, rendered, is_last=is_last)
        choice = chunk["choices"][0]
        if self._shows_logprobs and delta.logprobs:
            choice["logprobs"] = {
                "content": render_chat_logprobs(delta.logprobs, self._num_top_logprobs, self._metadata.tokens_as_ids)
            }
        if is_last:
            choice["finish_reason"] = delta.finish_reason
            choice["stop_reason"] = delta.stop_reason
        if self._shows_token_ids:
            choice["token_ids"] = list(delta.token_ids)
        return [Event(None, chunk)]

    def closing(self) -> list[Event]:
        """Make the usage chunk, if the stream has one."""
        return self._usage.closing(CHUNK_OBJECT)

    def failure(self, error: ApiError) -> list[Event]:
        """Make an event of the error's body."""
        return [Event(None, error.body)]

    def _make_chunk(self, index: int, delta: dict[str, Any], *, is_last: bool = False) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._usage.annotate(
            {**self._metadata.common_fields(CHUNK_OBJECT), "choices": [choice]}, index, is_last=is_last
        )
