"""The keys of one delta of a chat stream."""

import pytest

from jaxserve import NamedTool, TextDelta, ToolCallDelta
from server.chat_message import MessageRenderer, merge_tool_calls


def make_renderer(**changes):
    plain = {"role": "assistant", "echo": None, "tool_choice": "auto", "shows_reasoning": True}
    return MessageRenderer(**{**plain, "has_legacy_reasoning": False, **changes})


def render(*deltas, **changes):
    return [make_renderer(**changes).render_delta(TextDelta(0, **delta)) for delta in deltas]


THOUGHTS = ({"reasoning": "Hm", "text": ""}, {"reasoning": ", so", "text": "It is"}, {"text": " blue."}, {"text": ""})
FIRST, LAST = ToolCallDelta(0, "", "id0", "f"), ToolCallDelta(1, "{}", "id1", "g")
CALLS = (
    {"text": "Let me see."},
    {"text": "", "tool_calls": (FIRST,)},
    {"text": "", "tool_calls": (ToolCallDelta(0, '{"a"'),)},
    {"text": "", "tool_calls": (ToolCallDelta(0, ":1}"), LAST)},
)


def test_reasoning_comes_first_and_the_border_has_both():
    assert render(*THOUGHTS) == [
        {"reasoning": "Hm"},
        {"reasoning": ", so", "content": "It is"},
        {"content": " blue."},
        {},
    ]


def test_reasoning_has_its_old_name_too():
    assert render(*THOUGHTS, has_legacy_reasoning=True)[0] == {"reasoning": "Hm", "reasoning_content": "Hm"}


def test_reasoning_may_be_kept_back():
    assert render(*THOUGHTS, shows_reasoning=False, has_legacy_reasoning=True) == [
        {},
        {"content": "It is"},
        {"content": " blue."},
        {},
    ]


def test_the_first_delta_of_a_call_says_what_it_is_and_the_others_more_of_its_arguments():
    assert render(*CALLS) == [
        {"content": "Let me see."},
        {"tool_calls": [{"index": 0, "id": "id0", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": ":1}"}},
                {"index": 1, "id": "id1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ]
        },
    ]


@pytest.mark.parametrize("choice", ["required", NamedTool("f")])
def test_what_must_be_a_call_has_no_content(choice):
    assert [list(one) for one in render(*CALLS, tool_choice=choice)] == [[], *[["tool_calls"]] * 3]


def test_pieces_of_a_call_become_one():
    pieces = [FIRST, ToolCallDelta(0, "{"), LAST, ToolCallDelta(0, "}")]
    assert merge_tool_calls(pieces) == [ToolCallDelta(0, "{}", "id0", "f"), LAST]
    assert merge_tool_calls([]) == []
