"""Reasoning is told from content where the model's template has it; and what may be asked of it."""

import pytest

from tests.end_to_end.contract.api_client import check_error
from tests.end_to_end.contract.checked_replies import (
    COLOURS,
    NAMED,
    TIME,
    WEATHER,
    check_calls,
    checked_choice,
    checked_error,
)

pytestmark = pytest.mark.assets

QUIET = {"chat_template_kwargs": {"enable_thinking": False}}
COLOUR = {"structured_outputs": {"choice": COLOURS}}
BRIEF = {"thinking_token_budget": 5, **COLOUR}


def reasoned(reply):
    return reply["usage"]["completion_tokens_details"]["reasoning_tokens"]


class TestWhereItIsRead:
    """The parser is found in the template: no flag names one."""

    def test_reasoning_stands_beside_the_content_and_the_constraint_behind_it(self, mind):
        message = checked_choice(mind, **BRIEF)["message"]
        assert message["reasoning"] and message["content"] in COLOURS
        assert "reasoning_content" not in message
        assert not any(tag in message["reasoning"] + message["content"] for tag in ("<think>", "</think>"))

    def test_usage_counts_it_without_its_end(self, mind):
        assert 0 < reasoned(mind.chat(**BRIEF, max_tokens=40)) <= 5
        assert reasoned(mind.chat(**COLOUR, **QUIET, max_tokens=40)) == 0
        chunks = mind.stream(**BRIEF, max_tokens=40, stream_options={"include_usage": True})
        assert chunks[-1]["usage"] == mind.chat(**BRIEF, max_tokens=40)["usage"] | {
            "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"]
        }

    def test_an_answer_that_ends_in_it_has_no_content(self, mind):
        said = checked_choice(mind, max_tokens=4)
        assert said["message"]["reasoning"] and said["message"]["content"] is None
        assert said["finish_reason"] == "length"
        assert reasoned(mind.chat(max_tokens=4)) == 4

    def test_a_budget_of_nothing_is_no_reasoning(self, mind):
        message = checked_choice(mind, **COLOUR, thinking_token_budget=0)["message"]
        assert message["reasoning"] is None and message["content"] in COLOURS

    @pytest.mark.parametrize("fields", [QUIET, {"reasoning_effort": "none"}], ids=str)
    def test_where_thinking_is_switched_off_all_is_content(self, mind, fields):
        said = checked_choice(mind, **COLOUR, **fields)
        assert said["message"]["reasoning"] is None and said["message"]["content"] in COLOURS
        free = checked_choice(mind, max_tokens=6, **fields)["message"]
        assert free["reasoning"] is None and free["content"]

    def test_a_section_that_the_prompt_has_closed_is_closed(self, mind):
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>\nHm\n</think>\n\nA colour: "},
        ]
        fields = {"add_generation_prompt": False, "continue_final_message": True}
        message = checked_choice(mind, turns, **fields, **COLOUR)["message"]
        assert message["reasoning"] is None and message["content"] in COLOURS

    def test_what_is_not_to_be_told_is_not(self, mind):
        """With a constraint nothing is thought then; without one it is, and nothing shows it."""
        asked = {"include_reasoning": False, "logprobs": True, "return_token_ids": True}
        held = checked_choice(mind, **COLOUR, include_reasoning=False)
        assert held["message"]["content"] in COLOURS and held["message"]["reasoning"] is None
        reply = mind.chat(**asked, max_tokens=6)
        said = reply["choices"][0]
        assert (said["message"]["reasoning"], said["logprobs"], said["token_ids"]) == (None, None, None)
        assert reply["usage"]["completion_tokens"] == 6 == reasoned(reply)
        for chunk in mind.stream(**asked, max_tokens=6):
            one = chunk["choices"][0]
            assert set(one["delta"]) <= {"role", "content"} and not one["delta"].get("content")
            assert one["logprobs"] is None and "token_ids" not in one

    def test_with_it_every_token_is_told_once(self, mind):
        fields = {**BRIEF, "max_tokens": 40, "logprobs": True, "return_token_ids": True}
        whole = mind.choice(**fields)
        chunks = [chunk["choices"][0] for chunk in mind.stream(**fields)]
        assert [one for chunk in chunks for one in chunk.get("token_ids", [])] == whole["token_ids"]
        assert len(whole["logprobs"]["content"]) == len(whole["token_ids"])

    def test_a_stream_tells_it_first(self, mind):
        deltas = [chunk["choices"][0]["delta"] for chunk in mind.stream(**BRIEF, max_tokens=40)]
        kinds = ["content" if one.get("content") else "reasoning" if one.get("reasoning") else "" for one in deltas]
        assert kinds[0] == "" and [one for one in kinds if one] == sorted((one for one in kinds if one), reverse=True)

    @pytest.mark.parametrize(("tool_choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
    def test_calls_come_after_it(self, mind, tool_choice, reason):
        fields = {"tools": [WEATHER, TIME], "tool_choice": tool_choice, "parallel_tool_calls": False}
        said = checked_choice(mind, **fields, thinking_token_budget=4)
        assert said["message"]["reasoning"] and said["message"]["content"] == ""
        assert check_calls(said) and said["finish_reason"] == reason

    def test_every_choice_is_read_by_itself(self, mind):
        choices = mind.chat(**BRIEF, n=3, temperature=1, max_tokens=40)["choices"]
        assert all(one["message"]["reasoning"] and one["message"]["content"] in COLOURS for one in choices)

    def test_history_may_have_it_under_either_name(self, mind):
        def prompt(**thought):
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **thought}]
            return mind.chat([*turns, {"role": "user", "content": "c"}], return_prompt_text=True)["prompt_text"]

        assert prompt(reasoning="Hm") == prompt(reasoning_content="Hm") != prompt()


class TestCompletions:
    def test_a_budget_ends_the_reasoning_that_the_prompt_has_opened(self, mind):
        for budget in (0, 4):
            prompts = [f"<|im_start|>assistant\n<think>\n{words}" for words in ("Hm", "Well, the user")]
            fields = {
                "prompt": prompts,
                "max_tokens": budget + 12,
                "return_token_ids": True,
                "skip_special_tokens": False,
            }
            fields |= {"min_tokens": budget}
            for said in mind.complete(**fields, thinking_token_budget=budget)["choices"]:
                before, end, _ = said["text"].partition("</think>")
                assert end and mind.decode(said["token_ids"][:budget]) == before

    def test_without_reasoning_there_is_nothing_to_count(self, mind):
        fields = {"prompt": "<|im_start|>assistant\nThe sky", "max_tokens": 8}
        assert mind.complete(**fields, thinking_token_budget=0)["choices"] == mind.complete(**fields)["choices"]


class TestWhereItIsNot:
    def test_tags_are_content(self, ask):
        said = checked_choice(ask, structured_outputs={"choice": ["<think>a</think>b"]})
        assert (said["message"]["content"], said["message"]["reasoning"]) == ("<think>a</think>b", None)
        assert "completion_tokens_details" not in ask.chat()["usage"]

    def test_include_reasoning_changes_nothing(self, ask):
        fields = {"logprobs": True, "return_token_ids": True}
        assert ask.choice(**fields, include_reasoning=False) == ask.choice(**fields)

    @pytest.mark.parametrize("budget", [0, 5, -1])
    def test_a_thinking_token_budget_needs_a_parser(self, ask, budget):
        error = checked_error(ask, thinking_token_budget=budget)
        assert error["param"] == "thinking_token_budget" and "--reasoning-parser" in error["message"]


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_an_effort_that_the_model_does_not_know_is_fine(mind, effort):
    mind.chat(reasoning_effort=effort, max_tokens=1)


@pytest.mark.parametrize("effort", ["", "extreme", "LOW"])
def test_an_effort_that_nobody_knows_is_not(mind, effort):
    assert check_error(mind.ask(reasoning_effort=effort))["param"] == "reasoning_effort"


@pytest.mark.parametrize("budget", [-2, -(2**63)])
def test_a_budget_has_a_least_value(mind, budget):
    assert check_error(mind.ask(thinking_token_budget=budget))["param"] == "thinking_token_budget"
