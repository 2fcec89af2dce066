"""Cuts an answer into blocks, as Responses and Messages show it: reasoning, text and tool calls, as they alternate.

Fed with single deltas or with some that were merged in order (unsent_output.py), it makes the same blocks.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from jaxserve import FinishReason
from server.replies import make_random_id

CHAT_CALL_PREFIX = "chatcmpl-tool-"


class BlockKind(StrEnum):
    """The kind of a block."""

    REASONING = "reasoning"
    TEXT = "text"
    CALL = "call"


@dataclass(slots=True)
class OutputBlock:
    """One block of an answer.

    index     its number in the answer, from 0
    kind      see BlockKind
    call_id   of a call
    name      the called function, as the model knows it
    pieces    what it has so far: text, or the arguments of a call
    is_whole  False: the answer was cut off within it
    """

    index: int
    kind: BlockKind
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    is_whole: bool = True

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)


class BlockEvent(NamedTuple):
    """A step of an answer: a block begins, gets a piece, or ends."""

    action: Literal["opened", "extended", "closed"]
    block: OutputBlock
    piece: str = ""


class BlockBuilder:
    """Builder of one answer's blocks, from parts as MessageRenderer shows them.

    Whitespace before a call is left out, as in a whole chat message. An answer without any part has one empty text.
    A call's pieces follow each other, and no other call begins before its end: so the engine's parser makes them.

    blocks       those that have begun
    call_prefix  beginning of the ids of calls, in place of chat's; ids of a model's own form stay as they are
    call_name    the text of the answer is the input of a call of this tool; "": it is text
    """

    def __init__(self, call_prefix: str, call_name: str = "") -> None:
        self.blocks: list[OutputBlock] = []
        self._call_prefix, self._call_name = call_prefix, call_name
        self._open: OutputBlock | None = None
        self._blank: list[str] = []  # whitespace that belongs to the text that follows, if one does
        self._calls: dict[int, OutputBlock] = {}

    def add(self, rendered: dict[str, Any]) -> list[BlockEvent]:
        """Add what MessageRenderer.render_delta returned. Arguments of the call that is open come before all else."""
        events: list[BlockEvent] = []
        calls = rendered.get("tool_calls", ())
        for call in calls:
            if self._is_open(call):
                events += self._extend_call(call)
        if reasoning := rendered.get("reasoning"):
            events += self._extend(BlockKind.REASONING, reasoning)
        if content := rendered.get("content"):
            events += self._add_content(content)
        for call in calls:
            if call["index"] not in self._calls:
                events += [*self._begin_call(call), *self._extend_call(call)]
        return events

    def finish(self, reason: FinishReason | None) -> list[BlockEvent]:
        """End the answer. reason: why it ended. A call whose input is the answer is there, even if that is empty."""
        events, is_cut = [], reason is FinishReason.LENGTH
        is_call_missing = bool(self._call_name) and all(block.kind is not BlockKind.CALL for block in self.blocks)
        if not self.blocks or (self._blank and not self._calls) or (is_call_missing and not is_cut):
            blank = "".join(self._blank)
            self._blank.clear()
            events += self._begin_text()
            events += self._append(blank)
        if self._open is not None:
            self._open.is_whole = not is_cut
            events += self._close()
        return events

    def _add_content(self, text: str) -> list[BlockEvent]:
        is_text_open = self._open is not None and self._open.kind is BlockKind.TEXT
        if self._call_name or is_text_open:
            return self._append(text) if self._open_is_content() else [*self._begin_text(), *self._append(text)]
        self._blank.append(text)
        if not text.strip():
            return []
        text = "".join(self._blank)
        self._blank.clear()
        return [*self._begin_text(), *self._append(text)]

    def _open_is_content(self) -> bool:
        return self._open is not None and self._open.kind is not BlockKind.REASONING

    def _begin_text(self) -> list[BlockEvent]:
        if self._call_name:
            return self._begin(BlockKind.CALL, self._call_prefix + make_random_id(), self._call_name)
        return self._begin(BlockKind.TEXT)

    def _is_open(self, call: dict[str, Any]) -> bool:
        return self._open is not None and self._open is self._calls.get(call["index"])

    def _begin_call(self, call: dict[str, Any]) -> list[BlockEvent]:
        call_id = call["id"]
        if call_id.startswith(CHAT_CALL_PREFIX):
            call_id = self._call_prefix + call_id.removeprefix(CHAT_CALL_PREFIX)
        events = self._begin(BlockKind.CALL, call_id, call["function"]["name"])
        self._calls[call["index"]] = self.blocks[-1]
        return events

    def _extend_call(self, call: dict[str, Any]) -> list[BlockEvent]:
        self._blank.clear()
        return self._append(call["function"]["arguments"])

    def _extend(self, kind: BlockKind, piece: str) -> list[BlockEvent]:
        is_open = self._open is not None and self._open.kind is kind
        return [*([] if is_open else self._begin(kind)), *self._append(piece)]

    def _begin(self, kind: BlockKind, call_id: str = "", name: str = "") -> list[BlockEvent]:
        closed = self._close()
        self._open = OutputBlock(len(self.blocks), kind, call_id, name)
        self.blocks.append(self._open)
        return [*closed, BlockEvent("opened", self._open)]

    def _append(self, piece: str) -> list[BlockEvent]:
        if self._open is None or not piece:
            return []
        self._open.pieces.append(piece)
        return [BlockEvent("extended", self._open, piece)]

    def _close(self) -> list[BlockEvent]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        return [BlockEvent("closed", closed)]
