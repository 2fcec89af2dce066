"""HarmonyDialect of gpt-oss: messages with a channel and a recipient, between special tokens.

The analysis channel is reasoning, the others are content, and a message to functions.NAME is a call.
Source: https://github.com/openai/harmony
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OrExpr, RepeatExpr
from jaxserve.text.call_formats.format import Functions, FunctionSpec, concat
from jaxserve.text.call_formats.json_calls import stream_arguments
from jaxserve.text.dialect import OutputSink, random_id
from jaxserve.text.dialect_parser import content_emitter, parse_calls_or_content
from jaxserve.text.reasoning import EscapedVocabulary, ReasoningState
from jaxserve.text.text_buffer import Parser, TextBuffer

_RECIPIENT = re.compile(r"to=([\w.:/$@-]+)")
_WORD = re.compile(r"\s*(\w*)")
_FUNCTIONS = "functions."
_MAX_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyDialect:
    """The special tokens of OpenAI's harmony format, which is a dialect of calls and of reasoning in one.

    start, channel, constrain, message   Begin a message, its channel, the type of its content, and the content.
    ends                                 Each of these ends a message; a grammar writes the first.
    """

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")

    @property
    def new_id(self) -> Callable[[str, int], str]:
        """Random ids: messages have none."""
        return random_id

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """The tokens by which an output is split into messages."""
        return (self.channel, self.message)

    @property
    def content_header(self) -> str:
        """The header of a message on the final channel."""
        return f"{self.channel}final{self.message}"

    @property
    def end_marker(self) -> str:
        """The end of a reasoning message, and the header of the content."""
        return f"{self.ends[0]}{self.start}assistant{self.content_header}"

    @property
    def efforts(self) -> tuple[str, ...]:
        """The efforts that gpt-oss was trained with."""
        return ("low", "medium", "high")

    @property
    def has_typed_arguments(self) -> bool:
        """Whether arguments get their types from schemas: they are JSON already."""
        return False

    @property
    def output_parser(self) -> "HarmonyDialect":
        """The dialect itself: messages of all kinds follow one another."""
        return self

    def adapt_to(self, special_tokens: Collection[str]) -> "HarmonyDialect":
        """Return the dialect, which is the same for every tokenizer."""
        return self

    def begins_inside(self, spec: ChatOutputSpec, special_tokens: Collection[str]) -> bool:
        """Whether an output begins within a message: never, since every message has a header."""
        return False

    def ends_inside(self, text: str, special_tokens: Collection[str]) -> bool:
        """Whether a text that is continued ends within reasoning: the next message has a header."""
        return False

    def create_state(self, vocabulary: EscapedVocabulary, *, inside: bool, is_constrained: bool) -> ReasoningState:
        """Return the state before the header of the first message."""
        return HarmonyReasoning(vocabulary, self)

    def parse_output(
        self, buffer: TextBuffer, sink: OutputSink, functions: Functions, prompt: str, has_tools: bool
    ) -> Parser[None]:
        """Parse a whole output, message by message."""
        seen_kinds: set[str] = set()
        while True:
            header: list[str] = []
            if (yield from buffer.read_until((self.message,), header.append)) is None:
                if not seen_kinds and not sink.num_calls:
                    self._emit_without_message("".join(header), sink)
                return
            channel, recipient = self._parse_header("".join(header))
            is_function = recipient.startswith(_FUNCTIONS) or recipient in functions
            if has_tools and is_function:
                yield from self._parse_call(buffer, sink, recipient.removeprefix(_FUNCTIONS))
                continue
            kind = "reasoning" if channel == "analysis" else "content"
            emit = sink.add_reasoning if kind == "reasoning" else sink.add_content
            if kind in seen_kinds:
                emit("\n")
            yield from buffer.read_until((*self.ends, self.start), emit)
            seen_kinds.add(kind)

    def _parse_header(self, header: str) -> tuple[str, str]:
        recipient = _RECIPIENT.search(header)
        channel = _WORD.match(header.rpartition(self.channel)[2])
        return channel[1] if channel else "", recipient[1] if recipient else ""

    def _emit_without_message(self, text: str, sink: OutputSink) -> None:
        """Emit an output without a message as content, unless it has parts of a header."""
        if self.start not in text and self.channel not in text:
            sink.add_content(text)

    def _parse_call(self, buffer: TextBuffer, sink: OutputSink, name: str) -> Parser[None]:
        """Parse a call of the function; the message is content if it is not a JSON object at all."""
        yield from parse_calls_or_content(buffer, sink, self._parse_arguments(buffer, sink, name))
        yield from buffer.read_until((*self.ends, self.start), content_emitter(sink))

    def _parse_arguments(self, buffer: TextBuffer, sink: OutputSink, name: str) -> Parser[None]:
        sink.begin_call(name)
        if (yield from buffer.is_followed_by(self.ends)):
            sink.add_arguments("{}")
        elif (yield from buffer.peek()) == "{":
            yield from stream_arguments(buffer, sink.add_arguments)
        else:
            buffer.fail()
        sink.end_call()

    def is_readable_name(self, name: str) -> bool:
        """Whether a call of a function with this name is parsed as one."""
        return _RECIPIENT.fullmatch("to=" + _FUNCTIONS + name) is not None and name != ""

    def build_expr(self, functions: Functions, choice: ToolChoice, is_parallel: bool) -> GrammarExpr:
        """Return a grammar for one call, whose end token ends the output; with the choice "auto" also for content."""
        if isinstance(choice, NamedTool):
            functions = {choice.name: functions[choice.name]}
        is_free = choice == "auto"
        declared = [replace(function, is_enforced=not is_free or function.is_strict) for function in functions.values()]
        calls = OrExpr(tuple(map(self._call_expr, declared)))
        return OrExpr((calls, concat(self.content_header, FreeText()))) if is_free else calls

    def _call_expr(self, function: FunctionSpec) -> GrammarExpr:
        header = f"{self.channel}commentary to={_FUNCTIONS}{function.name} {self.constrain}json{self.message}"
        return concat(header, function.arguments_expr)

    def section_expr(self) -> GrammarExpr:
        """Return a grammar for any number of reasoning messages, and the start of the message after them."""
        end = self.ends[0]
        header = f"{self.channel}analysis{self.message}"
        return RepeatExpr(concat(header, FreeText((end,)), f"{end}{self.start}assistant"))


@dataclass(frozen=True, slots=True)
class HarmonyReasoning:
    """The state in harmony messages: the reasoning ends where a message begins that is not on the analysis channel.

    vocabulary   The tokens' bytes.
    dialect      The markers of the messages.
    header       The bytes so far of a message's header; None: inside a message.
    """

    vocabulary: EscapedVocabulary
    dialect: HarmonyDialect
    header: bytes | None = b""

    @property
    def is_inside(self) -> bool:
        """Whether the next token is part of a reasoning message."""
        return self.header is None

    def advance(self, token_id: int) -> "HarmonyReasoning | None":
        """Return the state after this token; None: the reasoning has ended."""
        text, dialect = self.vocabulary.token_bytes(token_id), self.dialect
        if self.header is None:
            return replace(self, header=b"") if text.decode("utf-8", "replace") in dialect.ends else self
        if text == dialect.message.encode():
            channel = self.header.rpartition(dialect.channel.encode())[2].strip()
            return replace(self, header=None) if channel.startswith(b"analysis") else None
        return replace(self, header=(self.header + text)[-_MAX_HEADER_BYTES:])


HARMONY = HarmonyDialect()
