"""From the blocks of an answer to the output items of a response, and the events that tell how each came about."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.output_blocks import BlockKind, OutputBlock
from server.replies import make_random_id
from server.responses.custom_input import CustomInputDecoder
from server.responses.reasoning_seal import seal_reasoning
from server.responses.tools import CallableTool, ToolTable

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"
ItemEvent = tuple[str, dict[str, Any]]
"""The type of an event, without "response." in front, and its fields."""
REASONING_PART = "reasoning_part"  # vLLM's name
OPENAI_REASONING_PART = "content_part"
Entries = list[dict[str, Any]]
"""Logprobs of some tokens."""


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """The form of the items that a request asks for.

    tools           its tools
    is_input_plain  the block of a call has the text of a custom tool, not arguments
    has_summary     reasoning is its own summary, too
    has_sealed      reasoning has an encrypted_content, too
    reasoning_part  what the events of a part of reasoning are named after
    """

    tools: ToolTable
    is_input_plain: bool = False
    has_summary: bool = False
    has_sealed: bool = False
    reasoning_part: str = REASONING_PART


class OutputItem(ABC):
    """One item while it comes about. Its events are made by `open`, any number of `extend`, and `close`.

    json: the item so far, as the response has it.
    """

    def __init__(self, block: OutputBlock, prefix: str, **fields: Any) -> None:
        """block: what it is made from. prefix: of its id."""
        self._block = block
        self.json: dict[str, Any] = {"id": f"{prefix}_{make_random_id()}", **fields, "status": IN_PROGRESS}

    def open(self) -> Iterator[ItemEvent]:
        """Make the events of its beginning."""
        yield self._item_event("output_item.added")
        yield from self._open_parts()

    @abstractmethod
    def extend(self, piece: str, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the events of a piece of its block. logprobs: those of tokens that no piece has had yet."""

    def close(self, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the events of its end. logprobs: as for `extend`."""
        yield from self._close_parts(logprobs)
        self.json["status"] = COMPLETED if self._block.is_whole else INCOMPLETE
        yield self._item_event("output_item.done")

    def _open_parts(self) -> Iterator[ItemEvent]:
        return iter(())

    @abstractmethod
    def _close_parts(self, logprobs: Entries) -> Iterator[ItemEvent]: ...

    def _item_event(self, kind: str) -> ItemEvent:
        return kind, {"output_index": self._block.index, "item": dict(self.json)}

    def _event(self, kind: str, **fields: Any) -> ItemEvent:
        return kind, {"item_id": self.json["id"], "output_index": self._block.index, **fields}


class MessageItem(OutputItem):
    """The text of the answer."""

    def __init__(self, block: OutputBlock) -> None:
        super().__init__(block, "msg", type="message", role="assistant", content=[])
        self._logprobs: Entries = []

    def extend(self, piece: str, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the event of a piece of the text."""
        self._logprobs += logprobs
        yield self._event("output_text.delta", content_index=0, delta=piece, logprobs=logprobs)

    def _open_parts(self) -> Iterator[ItemEvent]:
        yield self._event("content_part.added", content_index=0, part=self._make_part(""))

    def _close_parts(self, logprobs: Entries) -> Iterator[ItemEvent]:
        if logprobs:
            yield from self.extend("", logprobs)
        text = self._block.text
        part = self._make_part(text)
        yield self._event("output_text.done", content_index=0, text=text, logprobs=self._logprobs)
        yield self._event("content_part.done", content_index=0, part=part)
        self.json["content"] = [part]

    def _make_part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}


class ReasoningItem(OutputItem):
    """The reasoning before an answer."""

    def __init__(self, block: OutputBlock, options: ItemOptions) -> None:
        super().__init__(block, "rs", type="reasoning", summary=[], content=[])
        self._options = options

    def extend(self, piece: str, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the events of a piece of the reasoning, and of its summary."""
        yield self._event("reasoning_text.delta", content_index=0, delta=piece)
        if self._options.has_summary:
            yield self._event("reasoning_summary_text.delta", summary_index=0, delta=piece)

    def _open_parts(self) -> Iterator[ItemEvent]:
        yield self._event(
            f"{self._options.reasoning_part}.added", content_index=0, part={"type": "reasoning_text", "text": ""}
        )
        if self._options.has_summary:
            part = {"type": "summary_text", "text": ""}
            yield self._event("reasoning_summary_part.added", summary_index=0, part=part)

    def _close_parts(self, logprobs: Entries) -> Iterator[ItemEvent]:
        text = self._block.text
        part = {"type": "reasoning_text", "text": text}
        yield self._event("reasoning_text.done", content_index=0, text=text)
        yield self._event(f"{self._options.reasoning_part}.done", content_index=0, part=part)
        self.json["content"] = [part]
        if self._options.has_summary:
            summary = {"type": "summary_text", "text": text}
            yield self._event("reasoning_summary_text.done", summary_index=0, text=text)
            yield self._event("reasoning_summary_part.done", summary_index=0, part=summary)
            self.json["summary"] = [summary]
        if self._options.has_sealed:
            self.json["encrypted_content"] = seal_reasoning(text)


class FunctionCallItem(OutputItem):
    """A call of a function. `tool` is None for one that was not declared."""

    def __init__(self, block: OutputBlock, tool: CallableTool | None) -> None:
        super().__init__(block, "fc", type="function_call", **_describe_call(block, tool), arguments="")

    def extend(self, piece: str, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the event of a piece of the arguments."""
        yield self._event("function_call_arguments.delta", delta=piece)

    def _close_parts(self, logprobs: Entries) -> Iterator[ItemEvent]:
        self.json["arguments"] = self._block.text
        yield self._event("function_call_arguments.done", name=self.json["name"], arguments=self._block.text)


class CustomCallItem(OutputItem):
    """A call of a custom tool, whose input is text."""

    def __init__(self, block: OutputBlock, tool: CallableTool, *, is_input_plain: bool) -> None:
        super().__init__(block, "ctc", type="custom_tool_call", **_describe_call(block, tool), input="")
        self._decoder = None if is_input_plain else CustomInputDecoder()

    def extend(self, piece: str, logprobs: Entries) -> Iterator[ItemEvent]:
        """Make the event of a piece of the input, or none while it is not complete."""
        return self._append(piece if self._decoder is None else self._decoder.feed(piece))

    def _append(self, text: str) -> Iterator[ItemEvent]:
        self.json["input"] += text
        if text:
            yield self._event("custom_tool_call_input.delta", delta=text)

    def _close_parts(self, logprobs: Entries) -> Iterator[ItemEvent]:
        if self._decoder is not None:
            yield from self._append(self._decoder.close())
        yield self._event("custom_tool_call_input.done", input=self.json["input"])


def _describe_call(block: OutputBlock, tool: CallableTool | None) -> dict[str, Any]:
    namespace = {} if tool is None or tool.namespace is None else {"namespace": tool.namespace}
    return {"call_id": block.call_id, "name": block.name if tool is None else tool.name, **namespace}


def make_item(block: OutputBlock, options: ItemOptions) -> OutputItem:
    """Make the item of a block that has just begun."""
    if block.kind is BlockKind.REASONING:
        return ReasoningItem(block, options)
    if block.kind is BlockKind.TEXT:
        return MessageItem(block)
    tool = options.tools.by_chat_name.get(block.name)
    if tool is not None and tool.kind == "custom":
        return CustomCallItem(block, tool, is_input_plain=options.is_input_plain)
    return FunctionCallItem(block, tool)
