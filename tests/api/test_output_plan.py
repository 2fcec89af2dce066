"""What a request's wishes become before it runs, on a tiny tokenizer and no model."""

import json
import pickle
from dataclasses import replace

import pytest

from jaxserve import BadConfig, ChatOutputSpec, EngineConfig, InvalidParameter, NamedTool, SamplingParams
from jaxserve import StructuredOutputs as Wanted
from jaxserve.output_plan import OutputPlanner
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.prompts import PromptRenderer
from tests.text.tiny_tokenizers import TEMPLATE, byte_level_backend, make

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PLAIN = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**PLAIN["function"], "strict": True}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>'
WRONG = CALL.replace("1", '"x"')
UNKNOWN = CALL.replace("look", "leap")
FREE = SamplingParams(max_tokens=100)


@pytest.fixture(scope="module")
def make_planner():
    created = []

    def of(**settings):
        tokenizer = make(byte_level_backend(), "<|im_end|>")
        settings = {"tool_call_parser": "hermes", "max_model_len": 512, "chat_template": TEMPLATE} | settings
        config = EngineConfig(**settings)
        prompts = PromptRenderer(config, tokenizer)
        created.append(
            (OutputPlanner(config, tokenizer, prompts, {}, vocab_size=400, eos_ids=(2,)), prompts, tokenizer)
        )
        return created[-1][0], tokenizer

    yield of
    for planner, prompts, _ in created:
        planner.close()
        prompts.close()


def lets_through(plan, tokenizer, text):
    """Whether the answer may be this text, from beginning to end."""
    if plan.grammar is None:
        return True
    matcher, ids = plan.grammar.new_matcher(), tokenizer.encode(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_a_planner_elsewhere_compiles_the_grammar_of_a_plain_spec_for_itself(make_planner):
    planner, tokenizer = make_planner()
    plan = planner.plan(replace(FREE, structured_outputs=Wanted(regex="a+")))
    assert planner.trackers.get_grammar(plan.grammar.spec) is plan.grammar
    elsewhere = make_planner()[0].trackers.get_grammar(pickle.loads(pickle.dumps(plan.grammar.spec)))
    assert elsewhere is not plan.grammar and elsewhere.param == "structured_outputs"
    assert lets_through(replace(plan, grammar=elsewhere), tokenizer, "aaa")
    assert not lets_through(replace(plan, grammar=elsewhere), tokenizer, "b")


def test_grammars_are_compiled_and_kept_within_the_engine_s_limits(make_planner):
    hurried, _ = make_planner(grammar_compile_timeout_s=0.0001)
    with pytest.raises(InvalidParameter, match=r"it took longer than 0.0001 s"):
        hurried.plan(replace(FREE, structured_outputs=Wanted(choice=[f"word {i}" for i in range(5000)])))
    forgetful, _ = make_planner(grammar_cache_entries=1)
    first, again = (forgetful.plan(replace(FREE, structured_outputs=Wanted(regex="a+"))).grammar for _ in range(2))
    assert first is again
    forgetful.plan(replace(FREE, structured_outputs=Wanted(regex="b+")))
    assert forgetful.plan(replace(FREE, structured_outputs=Wanted(regex="a+"))).grammar is not first
    with pytest.raises(BadConfig, match="grammar_cache_entries must be at least 1"):
        EngineConfig(grammar_cache_entries=0)


@pytest.mark.parametrize(
    ("level", "tools", "allowed"),
    [
        ("auto", [PLAIN], {"hi", CALL, WRONG, UNKNOWN}),
        ("auto", [STRICT], {"hi", CALL}),
        ("function", [PLAIN], {"hi", CALL, WRONG}),
        ("parameter", [PLAIN], {"hi", CALL}),
    ],
)
def test_calls_that_are_chosen_are_held_as_the_level_says(make_planner, level, tools, allowed):
    planner, tokenizer = make_planner(tool_strict_level=level)
    plan = planner.plan(FREE, ChatOutputSpec(tools=tuple(tools), tool_choice="auto"))
    assert {text for text in ("hi", CALL, WRONG, UNKNOWN) if lets_through(plan, tokenizer, text)} == allowed


def test_a_call_or_content_of_its_shape_where_both_are_asked_for(make_planner):
    planner, tokenizer = make_planner()
    wanted = replace(FREE, structured_outputs=Wanted(choice=("yes", "no")))
    plan = planner.plan(wanted, ChatOutputSpec(tools=(PLAIN,), tool_choice="auto"))
    assert [lets_through(plan, tokenizer, text) for text in ("yes", "no", CALL)] == [True] * 3
    assert not any(lets_through(plan, tokenizer, text) for text in ("maybe", "yes" + CALL, WRONG))


@pytest.mark.parametrize("choice", ["required", NamedTool("look")])
def test_two_demands_on_one_answer_are_refused(make_planner, choice):
    wanted = replace(FREE, structured_outputs=Wanted(regex="a"))
    with pytest.raises(InvalidParameter, match="only one of them") as caught:
        make_planner()[0].plan(wanted, ChatOutputSpec(tools=(PLAIN,), tool_choice=choice))
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["required", NamedTool("look")])
def test_forced_calls_are_written_as_the_model_writes_them_or_plainly_where_that_is_not_known(make_planner, choice):
    format = ChatOutputSpec(tools=(PLAIN,), tool_choice=choice)
    for parser, text in (
        ("hermes", CALL),
        ("none", '[{"name": "look", "parameters": {"a": 1}}]' if choice == "required" else '{"a": 1}'),
    ):
        planner, tokenizer = make_planner(tool_call_parser=parser)
        plan = planner.plan(FREE, format)
        assert lets_through(plan, tokenizer, text) and not lets_through(plan, tokenizer, "hi")
        reader = plan.make_parser()
        begun, written = (reader.feed(text) + reader.close()).tool_calls
        assert (begun.name, json.loads(written.arguments)) == ("look", {"a": 1})


def test_calls_that_no_grammar_can_be_made_for_are_not_held_in_silence(make_planner, monkeypatch):
    planner, _ = make_planner()
    monkeypatch.setattr(OutputDialect, "build_expr", lambda *_, **__: None)  # as of a response_template with patterns
    wanted = replace(FREE, structured_outputs=Wanted(regex="a"))
    for params, tool in ((FREE, STRICT), (wanted, PLAIN)):
        with pytest.raises(InvalidParameter, match="cannot be enforced"):
            planner.plan(params, ChatOutputSpec(tools=(tool,), tool_choice="auto"))
    plain = ChatOutputSpec(tools=(PLAIN,), tool_choice="auto")
    assert planner.plan(FREE, plain).grammar is None
    for level in ("function", "parameter"):
        with pytest.raises(InvalidParameter, match="cannot be enforced"):
            make_planner(tool_strict_level=level)[0].plan(FREE, plain)


class TestReasoning:
    def prepare(self, make_planner, parser, wanted=None, budget=None, **format):
        planner, _ = make_planner(reasoning_parser=parser)
        params = replace(FREE, structured_outputs=wanted, thinking_token_budget=budget)
        return planner.plan(params, ChatOutputSpec(**format))

    def test_only_a_constraint_or_a_budget_needs_to_know_where_it_ends(self, make_planner):
        regex = Wanted(regex="a")
        assert self.prepare(make_planner, "deepseek_r1").reasoning is None
        assert self.prepare(make_planner, "deepseek_r1", regex).reasoning is not None
        assert self.prepare(make_planner, "deepseek_r1", budget=5).reasoning_end_ids
        assert self.prepare(make_planner, "deepseek_r1", budget=-1).reasoning is None

    @pytest.mark.parametrize(
        "format",
        [
            {"include_reasoning": False},
            {"enable_thinking": False},
            {"prompt_text": "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
        ],
    )
    def test_a_constraint_holds_at_once_where_there_will_be_none(self, make_planner, format):
        assert self.prepare(make_planner, "qwen3", Wanted(regex="a"), **format).reasoning is None

    def test_a_section_that_may_be_opened_is_part_of_the_grammar(self, make_planner):
        planner, tokenizer = make_planner(reasoning_parser="granite")
        plan = planner.plan(replace(FREE, structured_outputs=Wanted(regex="a")), ChatOutputSpec())
        assert plan.reasoning is None
        thought = "Here is my thought process: well. Here is my response:"
        assert lets_through(plan, tokenizer, "a") and lets_through(plan, tokenizer, thought + "a")

    @pytest.mark.parametrize("parser", ["none", "identity"])
    def test_a_budget_needs_reasoning(self, make_planner, parser):
        planner, _ = make_planner(reasoning_parser=parser)
        for format in (ChatOutputSpec(), None):
            with pytest.raises(InvalidParameter, match="thinking_token_budget"):
                planner.plan(replace(FREE, thinking_token_budget=3), format)

    @pytest.mark.parametrize(
        ("prompt", "is_inside"), [("Well", False), ("<think>Hm", True), ("<think>Hm</think>", False), ("", False)]
    )
    def test_the_budget_of_plain_text_counts_what_its_prompt_has_opened(self, make_planner, prompt, is_inside):
        planner, tokenizer = make_planner(reasoning_parser="qwen3")
        ids = tokenizer.encode(f"<|im_start|>{prompt}")
        plan = planner.plan(replace(FREE, thinking_token_budget=3), None, ids)
        assert plan.reasoning is not None and plan.reasoning.is_inside is is_inside
        assert tokenizer.decode(plan.reasoning_end_ids) == "</think>" and plan.make_parser is None
        both = replace(FREE, thinking_token_budget=3, structured_outputs=Wanted(regex="a"))
        with pytest.raises(InvalidParameter, match="constraint"):
            planner.plan(both, None, ids)


def test_a_parser_that_is_not_known_is_refused_with_those_that_are(make_planner):
    with pytest.raises(BadConfig, match="hermes"):
        make_planner(tool_call_parser="homer")


@pytest.mark.parametrize("choice", ["auto", "required", NamedTool("look")])
def test_a_name_that_the_dialect_cannot_read_back_is_refused_by_name(make_planner, choice):
    planner, _ = make_planner(tool_call_parser="qwen3_coder")
    odd = {"type": "function", "function": {"name": "look up"}}
    with pytest.raises(InvalidParameter, match=r"'look up'.*'qwen3_coder'") as caught:
        planner.plan(FREE, ChatOutputSpec(tools=(PLAIN, odd), tool_choice=choice))
    assert caught.value.param == "tools.1.function.name"
    planner.plan(FREE, ChatOutputSpec(tools=(PLAIN, odd), tool_choice="none"))


@pytest.mark.parametrize(
    ("switch", "text"), [("disable_any_whitespace", '{"a": 1}'), ("disable_additional_properties", '{"b":1}')]
)
def test_switches_of_the_servers_configuration_hold_for_every_answer(make_planner, switch, text):
    wanted = SamplingParams(structured_outputs=Wanted(json='{"type": "object"}'))
    for options, allowed in ((None, True), ({switch: True, "backend": "xgrammar"}, False)):
        planner, tokenizer = make_planner(structured_outputs_config=options)
        assert lets_through(planner.plan(wanted), tokenizer, text) is allowed


def test_the_reasoning_parser_may_stand_in_the_configuration_of_structured_outputs(make_planner):
    options = {"reasoning_parser": "qwen3"}
    assert make_planner(structured_outputs_config=options)[0].reasoning_parser.name == "qwen3"
    assert make_planner(structured_outputs_config=options, reasoning_parser="glm45")[0].reasoning_parser.name == "glm45"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backends": "x"}, "'backends', which is not known; known are backend"),
        ({"disable_any_whitespace": 1}, "must be a bool, got 1"),
        ({"enable_in_reasoning": True}, "enable_in_reasoning is not served"),
    ],
)
def test_options_of_structured_outputs_that_do_not_hold_are_refused(options, reason):
    with pytest.raises(BadConfig, match=reason):
        EngineConfig(structured_outputs_config=options)
