"""Outputs of models are parsed from their real tokens: reasoning, content and calls.

A template shows in a conversation's history how its model writes; that text, as tokens, is fed as if the model had
written it. Where it does not, the text is given here.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

import pytest

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason, TokenOutput, ToolCallDelta
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.text_stream import TextStream
from tests.text.families import FAMILIES, Family, templates_of, tokenizer_of
from tests.text.test_template_corpus import SAID, TOOL, USER, WHY, calling, with_text_arguments

pytestmark = pytest.mark.assets

TURN_END = "<|im_end|>"  # no special token in ERNIE's vocabulary
END = 0  # the token that ends an answer, which nobody sees
ARGUMENTS = {"city": 'Zürich 😀 "{x}", or', "days": 2}
CALL = ("get_weather", ARGUMENTS)
Case = tuple[ChatOutputSpec, str, tuple[str, str, list[tuple[str, Any]]]]
TURNS = {
    "words": SAID,
    "reasoned words": {**SAID, **WHY},
    "a call": calling(),
    "two calls": calling(2),
    "a reasoned call": calling(**WHY),
    "a spoken call": calling(1, "I look."),
    "a spoken and reasoned call": calling(1, "I look.", **WHY),
}
for turn in TURNS.values():
    for call in turn.get("tool_calls", ()):
        call["function"]["arguments"] = ARGUMENTS


def said(family: Family, turn: Mapping[str, Any], thinking: bool | None) -> tuple[str, str] | None:
    """The prompt, and what the template writes as the answer to it; None: it does not take such a turn.

    thinking   whether thinking is enabled; None: by default
    """
    template = templates_of(family).select(has_tools=True)
    switch = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    how = {"tools": [TOOL], "kwargs": switch}
    try:
        prompt = template.render([USER], **how)
        whole = template.render(with_text_arguments([USER, turn]), **how, add_generation_prompt=False)
    except InvalidParameter:
        return None
    answer = whole.removeprefix(prompt).partition(TURN_END)[0]
    return (prompt, answer) if whole.startswith(prompt) else None


def bound(family: Family) -> OutputDialect:
    tokenizer = tokenizer_of(family)
    tools = family.tool_parser or family.written
    return OutputDialect.from_dialects(
        TOOL_PARSERS[tools] if tools else None,
        REASONING_PARSERS[family.reasoning_parser] if family.reasoning_parser else None,
        {tokenizer.piece(id): id for id in tokenizer.special_ids},
    )


def read(family: Family, format: ChatOutputSpec, answer: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return reasoning, content and calls: the tokens go one by one through the detokenizer and the parser."""
    tokenizer, dialect = tokenizer_of(family), bound(family)
    prompt_ids = tokenizer.encode(format.prompt_text, add_special_tokens=False)
    stream = TextStream(
        tokenizer, SamplingParams(), prompt_ids, 0, dialect.create_parser(format), dialect.control_tokens
    )
    is_end = (tokenizer.special_ids - dialect.control_tokens.keys()).__contains__
    ids = list(takewhile(lambda id: not is_end(id), tokenizer.encode(answer, add_special_tokens=False)))
    outputs = [TokenOutput(1, (id,)) for id in ids] + [TokenOutput(1, (END,), finish_reason=FinishReason.STOP)]
    deltas = [delta for output in outputs if (delta := stream.push(output)) is not None]
    calls: dict[int, list[ToolCallDelta]] = {}
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        calls.setdefault(piece.index, []).append(piece)
    return (
        "".join(delta.reasoning for delta in deltas).strip(),
        "".join(delta.text for delta in deltas).strip(),
        [(call[0].name or "", "".join(piece.arguments for piece in call)) for call in calls.values()],
    )


def cases(family: Family) -> Iterator[Case]:
    """Yield what the template writes with thinking enabled or disabled, and the expected parts of it."""
    dialect, seen = bound(family), set()
    for thinking in (None, True, False):
        for name, turn in TURNS.items():
            written = said(family, turn, thinking)
            if (
                written is None
                or written in seen
                or any(family.name == one and part in name for one, part in OTHERWISE)
            ):
                continue
            seen.add(written)
            prompt, answer = written
            format = ChatOutputSpec(tools=(TOOL,), tool_choice="auto", prompt_text=prompt, enable_thinking=thinking)
            if dialect.starts_in_reasoning(format) and dialect.reasoning.close[0] not in answer:
                continue  # the history leaves the reasoning out
            num_calls = min(len(turn.get("tool_calls", ())), answer.count("get_weather") if dialect.tools else 0)
            reasoning = turn.get("reasoning", "") if REASONS in answer else ""
            content = turn["content"] if turn["content"] in answer else ""
            yield format, answer, (reasoning, content, [CALL] * num_calls)


# Where the history does not show how the model writes.
OTHERWISE = {
    ("Falcon 3", "call"): "calls as clients send them",
    ("gpt-oss", "spoken"): "words before a call as analysis",
}
REASONS = WHY["reasoning"]
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
CLOSED = f"{REASONS}\n</think>\n\nHello!"
HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>'
BY_DEEPSEEK = (
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{JSON}\n```"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
BY_FALCON = f'<tool_call>\n[\n  {{"name": "get_weather", "arguments": {JSON}}}\n]\n</tool_call>'
BY_GPT_OSS = (
    f"<|channel|>analysis<|message|>{REASONS}<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    f"<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>"
)
THOUGHT = (REASONS, "Hello!", [])
OWN = {  # what models write that their templates do not show
    "QwQ": [(CLOSED, THOUGHT), (f"{REASONS}\n</think>\n\n{HERMES}", (REASONS, "", [CALL]))],
    "DeepSeek V3.1": [(CLOSED, THOUGHT)],
    "DeepSeek R1": [(CLOSED, THOUGHT)],
    "DeepSeek R1 with tools": [(CLOSED, THOUGHT), (f"{REASONS}\n</think>\n\n{BY_DEEPSEEK}", (REASONS, "", [CALL]))],
    "DeepSeek R1 0528, Qwen3": [(f"<think>\n{CLOSED}", THOUGHT), (REASONS, (REASONS, "", []))],
    "DeepSeek R1, Llama": [(CLOSED, THOUGHT)],
    "ERNIE 4.5": [(f"{REASONS}\n</think>\n\n<response>\nHello!\n</response>\n", THOUGHT)],
    "Falcon 3": [(BY_FALCON, ("", "", [CALL])), (f"I look.\n{BY_FALCON}", ("", "I look.", [CALL]))],
    "Nemotron Nano v2": [(CLOSED, THOUGHT)],
    "gpt-oss": [(BY_GPT_OSS, (REASONS, "I look.", [CALL]))],
}


def own_cases(family: Family) -> Iterator[Case]:
    template = templates_of(family).select(has_tools=True)
    prompt = template.render([USER], kwargs={"thinking": True, "enable_thinking": True})
    format = ChatOutputSpec(tools=(TOOL,), tool_choice="auto", prompt_text=prompt, enable_thinking=True)
    for answer, expected in OWN.get(family.name, ()):
        yield format, answer, expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_models_write_is_read(family):
    found = set()
    for format, answer, expected in [*cases(family), *own_cases(family)]:
        reasoning, content, calls = read(family, format, answer)
        assert (reasoning, content, [(name, json.loads(said)) for name, said in calls]) == expected, answer
        found |= {name for name, part in zip(("reasoning", "content", "calls"), expected, strict=True) if part}
    dialect = bound(family)
    speaks = {"content"} | ({"calls"} if dialect.tools else set()) | ({"reasoning"} if dialect.reasoning else set())
    assert found == speaks


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.reasoning_parser], ids=lambda family: family.name)
def test_its_reasoning_ends_at_the_token_at_which_the_parser_ends_it(family):
    tokenizer, dialect = tokenizer_of(family), bound(family)
    thoughts = [case for case in (*cases(family), *own_cases(family)) if case[2] == THOUGHT]
    for format, answer, _ in thoughts:
        inside = dialect.starts_in_reasoning(format)
        assert inside is not None
        place, ids = dialect.start_reasoning(tokenizer, inside=inside, is_constrained=True), []
        for token_id in tokenizer.encode(answer, add_special_tokens=False):
            ids.append(token_id)
            place = place.advance(token_id)
            if place is None:
                break
        assert read(family, format, tokenizer.decode(ids) + "X") == (REASONS, "X", [])
        assert "X" not in read(family, format, tokenizer.decode(ids[:-1]) + "X")[1]
    assert thoughts
