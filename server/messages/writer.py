"""The reply of POST /v1/messages: one message, or a stream of events that make it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jaxserve import FinishReason, TextDelta
from server.chat_message import MessageRenderer
from server.errors import ApiError
from server.generation import Generation
from server.messages.errors import make_messages_error
from server.output_blocks import BlockBuilder, BlockEvent, BlockKind, OutputBlock
from server.replies import ReplyMetadata, TokenCounts
from server.responses.reasoning_seal import seal_reasoning
from server.schemas.messages import MessagesRequest
from server.tool_metrics import OTHER, ToolMetrics
from server.writer import Event

CALL_PREFIX = "toolu_"
INPUT = TypeAdapter(dict[str, Any])
DELTAS: Mapping[BlockKind, tuple[str, str]] = {
    BlockKind.REASONING: ("thinking_delta", "thinking"),
    BlockKind.TEXT: ("text_delta", "text"),
    BlockKind.CALL: ("input_json_delta", "partial_json"),
}


class MessagesWriter:
    """A writer of messages. Whole or streamed, the answer goes through the same blocks."""

    end = b""
    keep_alive = Event("ping", {"type": "ping"}).encode()

    def __init__(
        self,
        request: MessagesRequest,
        metadata: ReplyMetadata,
        generation: Generation,
        renderer: MessageRenderer,
        tool_metrics: ToolMetrics,
    ) -> None:
        self._metadata, self._generation = metadata, generation
        self._renderer, self._tool_metrics = renderer, tool_metrics
        self._hides_thinking = request.hides_thinking
        self._builder = BlockBuilder(CALL_PREFIX)
        self._tokens = TokenCounts()
        self._last: TextDelta | None = None

    async def write_whole(self) -> dict[str, Any]:
        """Wait for the end, and make the message. Raises ApiError if the generation failed."""
        deltas = await self._generation.collect_in_order()
        self._count_calls("non_streaming", deltas)
        for delta in deltas:
            self._add(delta)
        self._finish()
        content = [self._render_block(block) for block in self._builder.blocks]
        return {**self._render_head(), "content": content, **self._render_stop(), "usage": self._render_usage()}

    def opening(self) -> list[Event]:
        """Make the event of a message that has no content yet."""
        stop = {"stop_reason": None, "stop_sequence": None}
        message = {**self._render_head(), "content": [], **stop, "usage": self._render_usage()}
        return [_make_event("message_start", message=message)]

    def delta(self, delta: TextDelta) -> list[Event]:
        """Make the events of a delta."""
        self._count_calls("streaming", (delta,))
        return self._write_steps(self._add(delta))

    def closing(self) -> list[Event]:
        """Make the events of the last block's end, and of the message's."""
        return [
            *self._write_steps(self._finish()),
            _make_event("message_delta", delta=self._render_stop(), usage=self._render_usage()),
            _make_event("message_stop"),
        ]

    def failure(self, error: ApiError) -> list[Event]:
        """Make the event of the error's body."""
        return [Event("error", make_messages_error(error))]

    def _count_calls(self, mode: str, deltas: Iterable[TextDelta]) -> None:
        if self._renderer.tool_choice != "none":
            has_call = any(delta.tool_calls for delta in deltas)
            self._tool_metrics.count(mode, has_call=has_call, request_type=OTHER)

    def _add(self, delta: TextDelta) -> list[BlockEvent]:
        self._tokens.add(delta)
        self._last = delta
        return self._builder.add(self._renderer.render_delta(delta))

    def _finish(self) -> list[BlockEvent]:
        return self._builder.finish(None if self._last is None else self._last.finish_reason)

    def _render_head(self) -> dict[str, Any]:
        return {"id": self._metadata.id, "type": "message", "role": "assistant", "model": self._metadata.model}

    def _render_stop(self) -> dict[str, str | None]:
        """Render why the message ended: of a stop string, which one."""
        last, has_call = self._last, any(block.kind is BlockKind.CALL for block in self._builder.blocks)
        if last is None or last.finish_reason is FinishReason.LENGTH:
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if isinstance(last.stop_reason, str) and last.finish_reason is FinishReason.STOP:
            return {"stop_reason": "stop_sequence", "stop_sequence": last.stop_reason}
        return {"stop_reason": "tool_use" if has_call else "end_turn", "stop_sequence": None}

    def _render_usage(self) -> dict[str, int]:
        """Render the tokens so far. Those of the prompt that were cached are not among the input tokens."""
        shows_cached = self._metadata.shows_cached_tokens
        cached_tokens = self._generation.prompt_results[0].cached_tokens if shows_cached else 0
        return {
            "input_tokens": len(self._generation.jobs[0].prompt_ids) - cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached_tokens,
            "output_tokens": self._tokens.num_tokens,
        }

    def _write_steps(self, steps: Iterable[BlockEvent]) -> list[Event]:
        return [event for step in steps for event in self._write_step(step)]

    def _write_step(self, step: BlockEvent) -> list[Event]:
        block, index = step.block, step.block.index
        if step.action == "opened":
            return [_make_event("content_block_start", index=index, content_block=_render_empty(block))]
        is_thinking = block.kind is BlockKind.REASONING
        if step.action == "extended":
            kind, key = DELTAS[block.kind]
            delta = {"type": kind, key: step.piece}
            is_hidden = is_thinking and self._hides_thinking
            return [] if is_hidden else [_make_event("content_block_delta", index=index, delta=delta)]
        signed = []
        if is_thinking:
            delta = {"type": "signature_delta", "signature": self._sign(block)}
            signed = [_make_event("content_block_delta", index=index, delta=delta)]
        return [*signed, _make_event("content_block_stop", index=index)]

    def _render_block(self, block: OutputBlock) -> dict[str, Any]:
        if block.kind is BlockKind.TEXT:
            return {**_render_empty(block), "text": block.text}
        if block.kind is BlockKind.CALL:
            return {**_render_empty(block), "input": parse_input(block.text)}
        thinking = "" if self._hides_thinking else block.text
        return {**_render_empty(block), "thinking": thinking, "signature": self._sign(block)}

    def _sign(self, block: OutputBlock) -> str:
        """Return the signature of thinking: the text itself where it is not shown, else a mark of it."""
        if self._hides_thinking:
            return seal_reasoning(block.text)
        return "jaxserve-" + hashlib.sha256(block.text.encode()).hexdigest()[:16]


def parse_input(arguments: str) -> dict[str, Any]:
    """Parse the arguments of a call, of one that was cut off what is complete; {} if they are no object."""
    try:
        return INPUT.validate_json(arguments, experimental_allow_partial=True)
    except ValidationError:
        return {}


def _render_empty(block: OutputBlock) -> dict[str, Any]:
    """Render a block that has nothing yet."""
    if block.kind is BlockKind.REASONING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    if block.kind is BlockKind.TEXT:
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}


def _make_event(kind: str, **fields: Any) -> Event:
    return Event(kind, {"type": kind, **fields})
