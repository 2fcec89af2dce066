"""gpt-oss: messages with a channel and a recipient, between special tokens (OpenAI's harmony format).

The analysis channel is reasoning; the others are content, but what is sent to functions.NAME is a call.
"""

import re
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OrExpr, RepeatExpr
from jaxserve.text.answer_reading import Answer, calls_or_content, content_of
from jaxserve.text.call_formats.format import Function, Functions, in_order
from jaxserve.text.call_formats.json_calls import arguments
from jaxserve.text.markers import Reading, Tape

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

    def read_answer(self, tape: Tape, answer: Answer, functions: Functions, has_tools: bool) -> Reading[None]:
        """Takes the whole answer, message by message."""
        told: set[str] = set()
        while True:
            header: list[str] = []
            if (yield from tape.until((self.message,), header.append)) is None:
                if not told and not answer.num_calls:
                    self._without_message("".join(header), answer)
                return
            channel, recipient = self._header("".join(header))
            is_ours = recipient.startswith(_FUNCTIONS) or recipient in functions
            if has_tools and is_ours:
                yield from self._call(tape, answer, recipient.removeprefix(_FUNCTIONS))
                continue
            kind = "reasoning" if channel == "analysis" else "content"
            emit = answer.reasoning if kind == "reasoning" else answer.content
            if kind in told:
                emit("\n")
            yield from tape.until((*self.ends, self.start), emit)
            told.add(kind)

    def _header(self, header: str) -> tuple[str, str]:
        found = _RECIPIENT.search(header)
        word = _WORD.match(header.rpartition(self.channel)[2])
        return word[1] if word else "", found[1] if found else ""

    def _without_message(self, text: str, answer: Answer) -> None:
        """An answer that has no message: content where it has nothing of a header."""
        if self.start not in text and self.channel not in text:
            answer.content(text)

    def _call(self, tape: Tape, answer: Answer, name: str) -> Reading[None]:
        """A call to the function, or content if the message is no JSON object at all."""
        yield from calls_or_content(tape, answer, self._arguments(tape, answer, name))
        yield from tape.until((*self.ends, self.start), content_of(answer))

    def _arguments(self, tape: Tape, answer: Answer, name: str) -> Reading[None]:
        answer.begin(name)
        if (yield from tape.followed_by(self.ends)):
            answer.write("{}")
        elif (yield from tape.peek()) == "{":
            yield from arguments(tape, answer.write)
        else:
            tape.fail()
        answer.end()

    def reads_name(self, name: str) -> bool:
        return _RECIPIENT.fullmatch("to=" + _FUNCTIONS + name) is not None and name != ""

    def calls(self, functions: Functions, choice: ToolChoice, parallel: bool) -> GrammarExpr:
        """One call, whose end token ends the answer; with `auto` perhaps content."""
        if isinstance(choice, NamedTool):
            functions = {choice.name: functions[choice.name]}
        is_free = choice == "auto"
        declared = [replace(each, enforced=not is_free or each.strict) for each in functions.values()]
        calls = OrExpr(tuple(map(self._call_shape, declared)))
        return OrExpr((calls, self.content(FreeText()))) if is_free else calls

    def _call_shape(self, function: Function) -> GrammarExpr:
        header = f"{self.channel}commentary to={_FUNCTIONS}{function.name} {self.constrain}json{self.message}"
        return in_order(header, function.arguments)

    def content(self, shape: GrammarExpr) -> GrammarExpr:
        """Content of this shape, with its header."""
        return in_order(f"{self.channel}final{self.message}", shape)

    def section(self) -> GrammarExpr:
        """The shape of any number of messages of reasoning, and the header of what comes behind them."""
        end = self.ends[0]
        header = f"{self.channel}analysis{self.message}"
        return RepeatExpr(in_order(header, FreeText((end,)), f"{end}{self.start}assistant"))


HARMONY = HarmonyDialect()
