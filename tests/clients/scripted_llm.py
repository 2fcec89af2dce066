"""ScriptedLLM: a FakeLLM whose answers follow from what it is asked, so that clients can be tried with tools.

What the last message of the user says decides:

    "call A with {…} and call B with {…} then call C with {…}"   these calls, two in the first answer and one in the
                                                                 next, and then a text with the last results
    "wait for ever"                                              a text that does not end
    anything else                                                "You said: …"

A forced call and a constraint by a JSON schema get the smallest instance of the schema. It thinks before it answers
unless the template is told not to. Prompts that begin alike are counted as cached, as far as the prefix cache would
have them.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any

from jaxserve import ChatOutputSpec, ChatPrompt, NamedTool, SamplingParams, ToolCallDelta
from tests.fake_llm import FakeLLM, FakeReady, Piece, text_of

MODEL = "scripted"
MAX_MODEL_LEN = 4_000_000
PAGE = 16
THOUGHT = ("Let me ", "think.")
WAIT = "wait for ever"
RESULTS = "Results: "
_CALL = re.compile(r"\b(and|then)?\s*call ([\w./:-]+) with (?=\{)")
Call = tuple[str, str]
"""A tool's name, and its arguments as JSON."""


@dataclass(frozen=True)
class ScriptedReady(FakeReady):
    """A prepared request with its answer."""

    answer: tuple[Piece, ...] = field(default=(), compare=False)
    is_endless: bool = field(default=False, compare=False)


class ScriptedLLM(FakeLLM):
    """The model of the scripted server."""

    def __init__(self) -> None:
        super().__init__(model=MODEL, tool_parser="hermes", reasoning_parser="qwen3", max_model_len=MAX_MODEL_LEN)
        self._call_numbers = count(1)
        self._pages: set[int] = set()

    async def prepare(
        self, prompt: Any, params: SamplingParams, output: ChatOutputSpec | None = None, *more: Any, **options: Any
    ) -> ScriptedReady:
        """Prepare a request, and choose its answer."""
        ready = await super().prepare(prompt, params, output, *more, **options)
        messages = prompt.messages if isinstance(prompt, ChatPrompt) else ()
        answer = tuple(self._answer(messages, ready.params, ready.output))
        is_endless = WAIT in find_task(messages)[0].lower()
        return ScriptedReady(
            **{each.name: getattr(ready, each.name) for each in fields(ready)}, answer=answer, is_endless=is_endless
        )

    def get_pieces(self, index: int, call: FakeReady) -> Sequence[str | Piece]:
        """Return the answer of the script."""
        assert isinstance(call, ScriptedReady)
        return call.answer

    def count_cached_tokens(self, call: FakeReady) -> int:
        """Count the tokens of whole pages that former prompts began with, too; the last token is always computed."""
        num_cached, digest, is_hit = 0, hash(call.cache_salt), True
        for start in range(0, len(call.prompt_ids) - PAGE, PAGE):
            digest = hash((digest, call.prompt_ids[start : start + PAGE]))
            is_hit = is_hit and digest in self._pages
            num_cached += PAGE * is_hit
            self._pages.add(digest)
        return num_cached

    async def hold(self, number: int, call: FakeReady) -> None:
        """Wait before a delta, of an endless answer for ever."""
        await super().hold(number, call)
        if isinstance(call, ScriptedReady) and call.is_endless and number == len(call.answer) - 1:
            await asyncio.Event().wait()

    def _answer(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams, spec: ChatOutputSpec | None
    ) -> Iterator[Piece]:
        spec = spec or ChatOutputSpec()
        if messages and spec.enable_thinking is not False:
            yield from (Piece(reasoning=part) for part in THOUGHT)
        if calls := choose_calls(messages, spec):
            yield from self._call(calls)
            return
        yield from (Piece(part) for part in re.findall(r"\s*\S+\s*", write_text(messages, params)) or [""])

    def _call(self, calls: Sequence[Call]) -> Iterator[Piece]:
        """Make the pieces of calls: of each its head, and its arguments in two."""
        for index, (name, arguments) in enumerate(calls):
            half = len(arguments) // 2
            yield Piece(calls=(ToolCallDelta(index, "", f"chatcmpl-tool-{next(self._call_numbers)}", name),))
            yield from (Piece(calls=(ToolCallDelta(index, part),)) for part in (arguments[:half], arguments[half:]))


def choose_calls(messages: Sequence[Mapping[str, Any]], spec: ChatOutputSpec) -> list[Call]:
    """Return the calls that come next; none if it is time for a text."""
    if spec.tool_choice == "none" or not spec.tools:
        return []
    task, behind = find_task(messages)
    steps = [] if any(is_text(message) for message in behind) else list(read_steps(task))
    num_done = sum(bool(message.get("tool_calls")) for message in behind)
    calls = [call for call in steps[num_done] if call[0] in spec.tool_names] if num_done < len(steps) else []
    if not calls and spec.requires_tool_call:
        choice = spec.tool_choice
        name = choice.name if isinstance(choice, NamedTool) else spec.tool_names[0]
        (tool,) = (tool["function"] for tool in spec.tools if tool["function"]["name"] == name)
        calls = [(name, json.dumps(make_instance(tool.get("parameters") or {})))]
    return calls if spec.parallel_tool_calls else calls[:1]


def find_task(messages: Sequence[Mapping[str, Any]]) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """Return the text of the user's last message that asks for calls, or of the last one, and what comes behind it.

    Agents put messages of their own behind the user's, in its name: those ask for none.
    """
    asked = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        return "", messages
    texts = {number: text_of(messages[number].get("content")) for number in asked}
    number = next((number for number in reversed(asked) if _CALL.search(texts[number])), asked[-1])
    if any(is_text(message) for message in messages[number:]):  # it has been answered
        number = asked[-1]
    return texts[number], messages[number + 1 :]


def is_text(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is an answer without calls."""
    return message["role"] == "assistant" and not message.get("tool_calls")


def read_steps(task: str) -> Iterator[list[Call]]:
    """Yield the calls of each answer that a task asks for."""
    step: list[Call] = []
    for found in _CALL.finditer(task):
        _, end = json.JSONDecoder().raw_decode(task, found.end())
        if found[1] != "and" and step:
            yield step
            step = []
        step.append((found[2], task[found.end() : end]))
    if step:
        yield step


def write_text(messages: Sequence[Mapping[str, Any]], params: SamplingParams) -> str:
    """Write the text of an answer."""
    constraint = params.structured_outputs
    if constraint is not None and constraint.json is not None:
        return json.dumps(make_instance(json.loads(constraint.json)))
    task, behind = find_task(messages)
    results = [text_of(message.get("content")) for message in behind if message["role"] == "tool"]
    return RESULTS + "; ".join(results) if results else f"You said: {task[-200:]}"


def make_instance(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Make a small value that a JSON schema allows, as far as the clients' schemas go."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for key in schema["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        return make_instance(target, root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return make_instance(options[0], root)
    match schema.get("type"):
        case "object" | None:
            properties = schema.get("properties", {})
            return {name: make_instance(properties[name], root) for name in schema.get("required", ())}
        case "array":
            return [make_instance(schema["items"], root)] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
    return "Oslo"
