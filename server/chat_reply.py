"""The reply of POST /v1/chat/completions: one object, or a stream of role, echo, delta, finish and usage chunks."""

from typing import Any

from jaxserve import TextDelta
from server.chat_message import MessageRenderer
from server.config import ServerConfig
from server.errors import ApiError
from server.generation import Generation
from server.logprobs import render_chat_logprobs
from server.replies import ReplyMetadata, TokenCounts, UsageTracker, in_slices, render_prompt_logprobs, sum_usage
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

    Where reasoning is left out, token ids and logprobs are, too, since they would show it.
    """

    end = DONE
    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        request: ChatRequest,
        metadata: ReplyMetadata,
        generation: Generation,
        renderer: MessageRenderer,
        tool_metrics: ToolMetrics,
    ) -> None:
        self._request = request
        self._metadata = metadata
        self._generation = generation
        self._renderer = renderer
        self._tool_metrics = tool_metrics
        shows_tokens = renderer.shows_reasoning or not metadata.counts_reasoning
        self._shows_logprobs = bool(request.logprobs) and shows_tokens
        self._shows_token_ids = bool(request.return_token_ids) and shows_tokens
        self._usage = UsageTracker(request, metadata, generation)

    @property
    def _prompt_text(self) -> dict[str, str | None]:
        """The field prompt_text, if it was asked for: what the chat template rendered, before any truncation."""
        return {"prompt_text": self._generation.jobs[0].prompt_text} if self._request.return_prompt_text else {}

    def _count_tool_calls(self, delta: TextDelta, mode: str) -> None:
        if self._renderer.tool_choice != "none":
            self._tool_metrics.count(mode, has_call=bool(delta.tool_calls))

    @property
    def _num_top_logprobs(self) -> int:
        return self._generation.jobs[0].params.logprobs or 0

    async def write_whole(self) -> dict[str, Any]:
        """Wait for all choices, and make the reply in one object. Raises ApiError if the generation failed."""
        choices = await self._generation.collect()
        job, prompt_result = self._generation.jobs[0], self._generation.prompt_results[0]
        return {
            **self._metadata.common_fields(COMPLETION_OBJECT),
            "choices": [await self._render_choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._metadata.fingerprint,
            "usage": sum_usage(self._metadata, self._generation, TokenCounts.from_deltas(choices)),
            "prompt_logprobs": await render_prompt_logprobs(prompt_result.logprobs, job.params.prompt_logprobs or 0),
            "prompt_token_ids": list(job.prompt_ids) if self._request.return_token_ids else None,
            "kv_transfer_params": None,
            **self._prompt_text,
        }

    async def _render_choice(self, choice: TextDelta) -> dict[str, Any]:
        self._count_tool_calls(choice, "non_streaming")
        return {
            "index": choice.index,
            "message": self._renderer.render_message(choice),
            "logprobs": await self._render_logprobs(choice) if self._shows_logprobs else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._shows_token_ids else None,
        }

    async def _render_logprobs(self, choice: TextDelta) -> dict[str, Any]:
        k, as_ids = self._num_top_logprobs, self._metadata.tokens_as_ids
        return {
            "content": await in_slices(choice.logprobs or (), lambda entries: render_chat_logprobs(entries, k, as_ids))
        }

    def opening(self) -> list[Event]:
        """Make a role chunk for each choice, and behind them the chunks of the echoed text."""
        indices = range(self._generation.num_choices)
        roles = [self._make_chunk(index, {"role": self._renderer.role, "content": ""}) for index in indices]
        if self._request.return_token_ids:
            for chunk in roles:
                chunk["prompt_token_ids"] = list(self._generation.jobs[0].prompt_ids)
        for chunk in roles:
            chunk |= self._prompt_text
        text = self._renderer.echo
        echoes = [self._make_chunk(index, {"content": text}) for index in indices if text]
        return [Event(None, chunk) for chunk in roles + echoes]

    def delta(self, delta: TextDelta) -> list[Event]:
        """Make one chunk, or none if there is nothing to show.

        Where token ids or logprobs are shown, every delta with tokens has a chunk.
        """
        is_last = delta.finish_reason is not None
        self._usage.count(delta)
        self._count_tool_calls(delta, "streaming")
        rendered = self._renderer.render_delta(delta)
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
