"""gpt-oss: messages with a channel and a recipient, between special tokens (OpenAI's harmony format).

The analysis channel is reasoning; the others are content, but what is sent to functions.NAME is a call.
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
    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")

    def parse_output(
        self, buffer: TextBuffer, answer: OutputSink, functions: Functions, has_tools: bool
    ) -> Parser[None]:
        """Takes the whole answer, message by message."""
        told: set[str] = set()
        while True:
            header: list[str] = []
            if (yield from buffer.read_until((self.message,), header.append)) is None:
                if not told and not answer.num_calls:
                    self._emit_without_message("".join(header), answer)
                return
            channel, recipient = self._parse_header("".join(header))
            is_ours = recipient.startswith(_FUNCTIONS) or recipient in functions
            if has_tools and is_ours:
                yield from self._parse_call(buffer, answer, recipient.removeprefix(_FUNCTIONS))
                continue
            kind = "reasoning" if channel == "analysis" else "content"
            emit = answer.add_reasoning if kind == "reasoning" else answer.add_content
            if kind in told:
                emit("\n")
            yield from buffer.read_until((*self.ends, self.start), emit)
            told.add(kind)

    def _parse_header(self, header: str) -> tuple[str, str]:
        found = _RECIPIENT.search(header)
        word = _WORD.match(header.rpartition(self.channel)[2])
        return word[1] if word else "", found[1] if found else ""

    def _emit_without_message(self, text: str, answer: OutputSink) -> None:
        """An answer that has no message: content where it has nothing of a header."""
        if self.start not in text and self.channel not in text:
            answer.add_content(text)

    def _parse_call(self, buffer: TextBuffer, answer: OutputSink, name: str) -> Parser[None]:
        """A call to the function, or content if the message is no JSON object at all."""
        yield from parse_calls_or_content(buffer, answer, self._parse_arguments(buffer, answer, name))
        yield from buffer.read_until((*self.ends, self.start), content_emitter(answer))

    def _parse_arguments(self, buffer: TextBuffer, answer: OutputSink, name: str) -> Parser[None]:
        answer.begin_call(name)
        if (yield from buffer.is_followed_by(self.ends)):
            answer.add_arguments("{}")
        elif (yield from buffer.peek()) == "{":
            yield from stream_arguments(buffer, answer.add_arguments)
        else:
            buffer.fail()
        answer.end_call()

    def is_readable_name(self, name: str) -> bool:
        return _RECIPIENT.fullmatch("to=" + _FUNCTIONS + name) is not None and name != ""

    def build_shape(self, functions: Functions, choice: ToolChoice, parallel: bool) -> GrammarExpr:
        """One call, whose end token ends the answer; with `auto` perhaps content."""
        if isinstance(choice, NamedTool):
            functions = {choice.name: functions[choice.name]}
        is_free = choice == "auto"
        declared = [replace(each, is_enforced=not is_free or each.is_strict) for each in functions.values()]
        calls = OrExpr(tuple(map(self._call_shape, declared)))
        return OrExpr((calls, self.wrap_content(FreeText()))) if is_free else calls

    def _call_shape(self, function: FunctionSpec) -> GrammarExpr:
        header = f"{self.channel}commentary to={_FUNCTIONS}{function.name} {self.constrain}json{self.message}"
        return concat(header, function.arguments_shape)

    def wrap_content(self, shape: GrammarExpr) -> GrammarExpr:
        """Content of this shape, with its header."""
        return concat(f"{self.channel}final{self.message}", shape)

    def section_shape(self) -> GrammarExpr:
        """The shape of any number of messages of reasoning, and the header of what comes behind them."""
        end = self.ends[0]
        header = f"{self.channel}analysis{self.message}"
        return RepeatExpr(concat(header, FreeText((end,)), f"{end}{self.start}assistant"))


HARMONY = HarmonyDialect()
