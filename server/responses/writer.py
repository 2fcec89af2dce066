"""The reply of POST /v1/responses: one object, or a stream of events that ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jaxserve import FinishReason, TextDelta, TokenLogprob
from server.chat_message import MessageRenderer
from server.errors import ApiError
from server.generation import Generation
from server.logprobs import render_chat_logprobs
from server.output_blocks import BlockBuilder, BlockEvent, BlockKind
from server.replies import ReplyMetadata, TokenCounts
from server.responses.mapper import MappedRequest
from server.responses.output_items import REASONING_PART, ItemOptions, OutputItem, make_item
from server.responses.response_object import ResponseObject
from server.schemas.responses import ENCRYPTED_REASONING, ResponsesRequest
from server.tool_metrics import RESPONSES, ToolMetrics
from server.writer import KEEP_ALIVE, Event

CALL_PREFIX = "call_"
ENDS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


class ResponsesWriter:
    """A writer of responses. Whole or streamed, the answer goes through the same items."""

    end = b""
    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        request: ResponsesRequest,
        mapped: MappedRequest,
        metadata: ReplyMetadata,
        generation: Generation,
        renderer: MessageRenderer,
        tool_metrics: ToolMetrics,
        on_end: Callable[[dict[str, Any]], None],
        reasoning_part: str = REASONING_PART,
    ) -> None:
        """on_end: is given the response when it has ended, well or not. reasoning_part: as in ItemOptions."""
        self._metadata, self._generation = metadata, generation
        self._renderer, self._tool_metrics, self._on_end = renderer, tool_metrics, on_end
        self._response = ResponseObject(request, metadata, generation.jobs[0])
        grammar_tool = mapped.grammar_tool
        self._builder = BlockBuilder(CALL_PREFIX, "" if grammar_tool is None else grammar_tool.chat_name)
        self._options = ItemOptions(
            mapped.tools,
            is_input_plain=grammar_tool is not None,
            has_summary=request.summary is not None,
            has_sealed=ENCRYPTED_REASONING in request.included,
            reasoning_part=reasoning_part,
        )
        self._items: list[OutputItem] = []
        shows_tokens = renderer.shows_reasoning or not metadata.counts_reasoning
        self._shows_logprobs = bool(mapped.chat.logprobs) and shows_tokens
        self._logprobs: list[dict[str, Any]] = []  # of text that has not been written yet
        self._entries: dict[int, TokenLogprob] = {}  # of tokens of which it is not known whether they are text
        self._num_entries = 0
        self._tokens = TokenCounts()
        self._finish_reason: FinishReason | None = None
        self._num_events = 0
        self._is_open = False

    async def write_whole(self) -> dict[str, Any]:
        """Wait for the end, and make the response. Raises ApiError if the generation failed."""
        deltas = await self._generation.collect_in_order()
        self._count_calls("non_streaming", deltas)
        for delta in deltas:
            self._add(delta)
        self._write_blocks(self._builder.finish(self._finish_reason))
        return self._end()

    def render_queued(self) -> dict[str, Any]:
        """Make the response of a request that waits."""
        return self._response.render("queued")

    def open_queued(self) -> list[Event]:
        """Make the first events of a response that waits."""
        response = self.render_queued()
        return [self._event(kind, {"response": response}) for kind in ("response.created", "response.queued")]

    def opening(self) -> list[Event]:
        """Make the events of a response that has no output yet, the first time that it is asked for them."""
        if self._is_open:
            return []
        self._is_open = True
        kinds = ("response.in_progress",) if self._num_events else ("response.created", "response.in_progress")
        response = self._response.render("in_progress")
        return [self._event(kind, {"response": response}) for kind in kinds]

    def delta(self, delta: TextDelta) -> list[Event]:
        """Make the events of a delta."""
        self._count_calls("streaming", (delta,))
        return self._add(delta)

    def closing(self) -> list[Event]:
        """Make the events of the last item's end, and of the response's."""
        events = self._write_blocks(self._builder.finish(self._finish_reason))
        response = self._end()
        return [*events, self._event(ENDS[response["status"]], {"response": response})]

    def failure(self, error: ApiError) -> list[Event]:
        """Make the event of a response that has failed, with the items that were complete."""
        return self._break_off("failed", "response.failed", error)

    def cancellation(self) -> list[Event]:
        """Make the event of a response that was cancelled, with the items that were complete."""
        return self._break_off("cancelled", "response.incomplete")

    def _break_off(self, status: str, kind: str, error: ApiError | None = None) -> list[Event]:
        opening = self.opening()
        output = [item.json for item in self._items if item.json["status"] == "completed"]
        response = self._response.render(status, output, error=error)
        self._on_end(response)
        return [*opening, self._event(kind, {"response": response})]

    def _end(self) -> dict[str, Any]:
        status = "incomplete" if self._finish_reason is FinishReason.LENGTH else "completed"
        usage = self._response.make_usage(self._generation.prompt_results[0].cached_tokens, self._tokens)
        response = self._response.render(status, [item.json for item in self._items], usage=usage)
        self._on_end(response)
        return response

    def _count_calls(self, mode: str, deltas: Iterable[TextDelta]) -> None:
        if self._renderer.tool_choice != "none":
            has_call = any(delta.tool_calls for delta in deltas)
            self._tool_metrics.count(mode, has_call=has_call, request_type=RESPONSES)

    def _add(self, delta: TextDelta) -> list[Event]:
        self._tokens.add(delta)
        self._finish_reason = delta.finish_reason
        if self._shows_logprobs:
            k, entries = self._generation.jobs[0].params.logprobs or 0, self._take_text_entries(delta)
            self._logprobs += render_chat_logprobs(entries, k, self._metadata.tokens_as_ids)
        return self._write_blocks(self._builder.add(self._renderer.render_delta(delta)))

    def _take_text_entries(self, delta: TextDelta) -> list[TokenLogprob]:
        """Return the logprobs of the tokens that are now known to be text; they may have come with an earlier delta."""
        entries = delta.logprobs or ()
        numbers = range(self._num_entries, self._num_entries + len(entries))
        self._num_entries += len(entries)
        self._entries |= zip(numbers, entries, strict=True)
        known = numbers if delta.content_tokens is None else delta.content_tokens
        return [self._entries.pop(number) for number in known if number in self._entries]

    def _write_blocks(self, steps: Iterable[BlockEvent]) -> list[Event]:
        return [event for step in steps for event in self._write_block(step)]

    def _write_block(self, step: BlockEvent) -> list[Event]:
        if step.action == "opened":
            self._items.append(make_item(step.block, self._options))
        item = self._items[step.block.index]
        if step.action == "opened":
            events = item.open()
        else:
            logprobs: list[dict[str, Any]] = []
            if step.block.kind is BlockKind.TEXT:
                logprobs, self._logprobs = self._logprobs, []
            events = item.extend(step.piece, logprobs) if step.action == "extended" else item.close(logprobs)
        return [self._event(f"response.{kind}", fields) for kind, fields in events]

    def _event(self, kind: str, fields: dict[str, Any]) -> Event:
        number, self._num_events = self._num_events, self._num_events + 1
        return Event(kind, {"type": kind, "sequence_number": number, **fields})
