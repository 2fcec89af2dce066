"""Tools on a model whose calls are written in no known form, and on one whose dialect is found."""

import re

import pytest

from tests.end_to_end.contract.api_client import check_error
from tests.end_to_end.contract.checked_replies import (
    CALL,
    NAMED,
    TIME,
    WEATHER,
    check_calls,
    checked_choice,
    checked_error,
)

pytestmark = pytest.mark.assets

TOOLS = [WEATHER, TIME]
QUIET = {"chat_template_kwargs": {"enable_thinking": False}}
RAIN = [{"role": "user", "content": "Will it rain in Rome?"}]


@pytest.fixture(params=["ask", "mind"], ids=["generic form", "own dialect"])
def either(request):
    """Both models: what must be called needs no dialect."""
    return request.getfixturevalue(request.param)


class TestChoices:
    @pytest.mark.parametrize("seed", range(3))
    def test_required_is_at_least_one_valid_call(self, either, seed):
        said = checked_choice(either, RAIN, tools=TOOLS, tool_choice="required", temperature=1, seed=seed, **QUIET)
        assert said["message"]["content"] == ""
        if said["finish_reason"] != "length":
            assert said["finish_reason"] == "tool_calls" and check_calls(said)

    @pytest.mark.parametrize("seed", range(2))
    def test_parallel_tool_calls_false_is_one_call(self, either, seed):
        fields = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "temperature": 1.5}
        said = checked_choice(either, RAIN, **fields, seed=seed, **QUIET)
        assert (said["finish_reason"], len(check_calls(said))) == ("tool_calls", 1)

    def test_a_named_function_is_called_once_and_ends_with_stop(self, either):
        said = checked_choice(either, RAIN, tools=TOOLS, tool_choice=NAMED, temperature=1, **QUIET)
        assert (said["message"]["content"], said["finish_reason"]) == ("", "stop")
        assert [name for name, _ in check_calls(said)] == ["get_time"]

    @pytest.mark.parametrize("tool_choice", ["required", NAMED], ids=["required", "named"])
    def test_what_is_cut_off_shows_no_raw_text(self, either, tool_choice):
        said = either.choice(RAIN, tools=TOOLS, tool_choice=tool_choice, max_tokens=1, **QUIET)
        assert (said["message"]["content"], said["finish_reason"]) == ("", "length")
        assert "tool_calls" not in said["message"]

    def test_every_choice_has_its_own_calls(self, either):
        fields = {"tools": TOOLS, "tool_choice": NAMED, "n": 3, "temperature": 1, "max_tokens": 60}
        choices = either.chat(RAIN, **fields, **QUIET)["choices"]
        ids = [call["id"] for one in choices for call in one["message"]["tool_calls"]]
        assert len(set(ids)) == 3 and all(re.fullmatch("chatcmpl-tool-[0-9a-f]{16}", one) for one in ids)

    def test_none_shows_the_tools_and_reads_nothing(self, mind):
        fields = {"structured_outputs": {"choice": [CALL]}, "tools": TOOLS, "tool_choice": "none", **QUIET}
        said = checked_choice(mind, RAIN, **fields)
        assert (said["message"]["content"], said["finish_reason"]) == (CALL, "stop")
        assert "tool_calls" not in said["message"]
        assert len(mind.prompt_ids(tools=TOOLS, tool_choice="none")) > len(mind.prompt_ids())

    def test_an_echo_makes_a_text_of_the_content(self, mind):
        turns = [*RAIN, {"role": "assistant", "content": ""}]
        fields = {"tools": TOOLS, "tool_choice": NAMED, "echo": True, "add_generation_prompt": False, **QUIET}
        said = mind.choice(turns, **fields, max_tokens=60)
        assert said["message"]["content"] == "" and check_calls(said)


class TestAuto:
    @pytest.mark.parametrize("tool_choice", [None, "auto", "absent"])
    def test_a_call_is_found_in_the_text(self, mind, tool_choice):
        """The constraint says nothing but a call, so one is written whatever the model would rather do. Null and
        absence are the same."""
        fields = {} if tool_choice == "absent" else {"tool_choice": tool_choice}
        fields |= {"structured_outputs": {"choice": [CALL]}, "parallel_tool_calls": False, **QUIET}
        said = checked_choice(mind, RAIN, tools=[WEATHER], **fields)
        assert (said["message"]["content"], said["finish_reason"]) == (None, "tool_calls")
        assert [name for name, _ in check_calls(said)] == ["get_weather"]

    def test_without_one_the_answer_is_content(self, mind):
        said = checked_choice(mind, [{"role": "user", "content": "Hi"}], tools=TOOLS, max_tokens=12, **QUIET)
        if "tool_calls" not in said["message"]:
            assert said["message"]["content"] and said["finish_reason"] in ("stop", "length")

    def test_with_a_constraint_it_is_a_call_or_content_of_that_form(self, mind):
        fields = {"structured_outputs": {"regex": "(yes|no)"}, "parallel_tool_calls": False, **QUIET}
        for seed in range(4):
            said = checked_choice(mind, RAIN, tools=[WEATHER], **fields, temperature=1.5, seed=seed)
            if "tool_calls" in said["message"]:
                assert check_calls(said) and said["finish_reason"] == "tool_calls"
            else:
                assert said["message"]["content"] in ("yes", "no") and said["finish_reason"] == "stop"

    @pytest.mark.parametrize("fields", [{}, {"tool_choice": None}, {"tool_choice": "auto"}], ids=str)
    def test_where_no_dialect_is_known_the_flags_are_named(self, ask, fields):
        error = checked_error(ask, tools=TOOLS, **fields)
        assert error["param"] in ("tools", "tool_choice")
        assert all(flag in error["message"] for flag in ("--enable-auto-tool-choice", "--tool-call-parser"))


class TestReading:
    """The model is made to write a text in which there may be calls; a text before them leaves no other way."""

    BEGIN = "Look: "

    def read(self, mind, text, **fields):
        first = mind.post("/tokenize", {"prompt": self.BEGIN}).json()["tokens"][0]
        fields = {"structured_outputs": {"choice": [self.BEGIN + text]}, "logit_bias": {str(first): 100}} | fields
        return checked_choice(mind, RAIN, **{"tools": TOOLS, **fields, **QUIET})

    @pytest.mark.parametrize("gap", ["", "\n", " and "])
    def test_text_before_calls_is_content_and_between_them_it_is_dropped(self, mind, gap):
        said = self.read(mind, CALL + gap + CALL.replace("Rome", "Paris"))
        assert (said["message"]["content"], said["finish_reason"]) == (self.BEGIN, "tool_calls")
        assert [arguments for _, arguments in check_calls(said)] == [{"city": "Rome"}, {"city": "Paris"}]

    def test_parallel_tool_calls_false_keeps_the_first(self, mind):
        said = self.read(mind, CALL + CALL.replace("Rome", "Paris"), parallel_tool_calls=False)
        assert [arguments for _, arguments in check_calls(said)] == [{"city": "Rome"}]

    def test_arguments_are_told_as_they_were_written(self, mind):
        written = '{ "city":"K\u00f6ln" ,\n "x": [1.50, {"a": "}</tool_call"}] }'
        said = self.read(mind, '<tool_call>\n{"name": "unheard_of", "arguments": ' + written + "}\n</tool_call>")
        (call,) = said["message"]["tool_calls"]
        assert call["function"] == {"name": "unheard_of", "arguments": written}

    @pytest.mark.parametrize(
        "text", ['<tool_call>\n{"name": broken}\n</tool_call>', "<tool_call>Hello</tool_call>", "a <tool b"]
    )
    def test_what_is_no_call_stays_content(self, mind, text):
        said = self.read(mind, text)
        assert (said["message"]["content"], said["finish_reason"]) == (self.BEGIN + text, "stop")
        assert "tool_calls" not in said["message"]

    def test_a_stop_string_acts_on_the_raw_text(self, mind):
        said = self.read(mind, CALL, stop="</tool_call>")
        assert (said["stop_reason"], [name for name, _ in check_calls(said)]) == ("</tool_call>", ["get_weather"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": []}, "tools"),
            ({"tool_choice": "auto"}, "tool_choice"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tool_choice": NAMED}, "tool_choice"),
            ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
            ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice"),
            ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
            (
                {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": ""}}},
                "tool_choice.function.name",
            ),
            ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice"),
            ({"tools": [{"type": "web"}]}, "body.tools.0.type"),
            ({"tools": [WEATHER, {"type": "function", "function": {}}]}, "body.tools.1.function.name"),
            (
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
                "body.tools.0.function.parameters",
            ),
        ],
        ids=str,
    )
    def test_tools_and_choices_that_cannot_be(self, ask, fields, param):
        assert check_error(ask.ask(**fields))["param"] == param

    @pytest.mark.parametrize("key", ["json", "regex", "choice"])
    @pytest.mark.parametrize("tool_choice", ["required", NAMED], ids=["required", "named"])
    def test_a_call_and_a_constraint_exclude_each_other(self, ask, key, tool_choice):
        asked = {"structured_outputs": {key: ["a"] if key == "choice" else "{}"}}
        assert checked_error(ask, tools=TOOLS, tool_choice=tool_choice, **asked)["param"] == "tool_choice"

    def test_schemas_that_are_enforced_must_be_enforceable(self, either):
        odd = {
            "type": "function",
            "function": {"name": "f", "parameters": {"properties": {"a": {"uniqueItems": True}}}},
        }
        assert "uniqueItems" in checked_error(either, tools=[odd], tool_choice="required")["message"]

    def test_definitions_of_several_tools_must_agree(self, either):
        def tool(name, body):
            schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": body}}
            return {"type": "function", "function": {"name": name, "parameters": schema}}

        clash = [tool("f", {"type": "integer"}), tool("g", {"type": "string"})]
        assert "$defs" in checked_error(either, tools=clash, tool_choice="required")["message"]
        same = [tool("f", {"enum": [1]}), tool("g", {"enum": [1]})]
        fields = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 60, **QUIET}
        assert either.choice(RAIN, tools=same, **fields)["finish_reason"] == "tool_calls"


def test_the_next_turn_has_the_call_and_its_result(mind):
    said = checked_choice(mind, RAIN, tools=TOOLS, tool_choice=NAMED, **QUIET)
    (call,) = said["message"]["tool_calls"]
    turns = [*RAIN, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns += [{"role": "tool", "tool_call_id": call["id"], "content": "It is noon."}]
    reply = mind.chat(turns, tools=TOOLS, tool_choice="none", max_tokens=4, return_prompt_text=True, **QUIET)
    assert "It is noon." in reply["prompt_text"] and '"name": "get_time"' in reply["prompt_text"]
