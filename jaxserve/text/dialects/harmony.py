"""HarmonyDialect of gpt-oss: messages with a channel and a recipient, between special tokens.

The analysis channel is reasoning, the others are content, and a message to functions.NAME is a call.
Source: https://github.com/openai/harmony
"""

import re
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OrExpr, RepeatExpr
from jaxserve.text.call_formats.format import Functions, FunctionSpec, concat
from jaxserve.text.call_formats.json_calls import stream_arguments
from jaxserve.text.dialect_parser import OutputSink, content_emitter, parse_calls_or_content
from jaxserve.text.text_buffer import Parser, TextBuffer

_RECIPIENT = re.compile(r"to=([\w.:/$@-]+)")
_WORD = re.compile(r"\s*(\w*)")
_FUNCTIONS = "functions."


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyDialect:
    """The special tokens of OpenAI's harmony format.

    start, channel, constrain, message   Begin a message, its channel, the type of its content, and the content.
    ends                                 Each of these ends a message; a grammar writes the first.
    """

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")

    def parse_output(self, buffer: TextBuffer, sink: OutputSink, functions: Functions, has_tools: bool) -> Parser[None]:
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
        return OrExpr((calls, self.wrap_content(FreeText()))) if is_free else calls

    def _call_expr(self, function: FunctionSpec) -> GrammarExpr:
        header = f"{self.channel}commentary to={_FUNCTIONS}{function.name} {self.constrain}json{self.message}"
        return concat(header, function.arguments_expr)

    def wrap_content(self, expr: GrammarExpr) -> GrammarExpr:
        """Return a grammar for this content with its header."""
        return concat(f"{self.channel}final{self.message}", expr)

    def section_expr(self) -> GrammarExpr:
        """Return a grammar for any number of reasoning messages, and the start of the message after them."""
        end = self.ends[0]
        header = f"{self.channel}analysis{self.message}"
        return RepeatExpr(concat(header, FreeText((end,)), f"{end}{self.start}assistant"))


HARMONY = HarmonyDialect()
