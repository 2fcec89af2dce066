"""Answers that keep to a grammar or a budget beside answers that do not, on the fake device.

The truth follows one answer with a guide of its own and no scheduler; what a guide allows is tests/structured's affair.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason
from tests.engine.world import BOTH, EOS, SHAPES, STOP, World, prompt
from tests.fake_runner import VOCAB
from tests.grammars import SmallGrammar, UntilToken, regex, schema, tokens_of

HERE = (VOCAB, (EOS,))
TOKENS = tokens_of(*HERE)
THINKING = UntilToken(frozenset([4, 11, 30]))
PAIRS = "(ab|ba){1,6}"
GUIDES = (
    {"grammar": regex(PAIRS, *HERE)},
    {"grammar": regex("[ab12]*", *HERE)},
    {"grammar": SmallGrammar('start: "{" item ("," item)* "}"\nitem: "a" | "b" | start', *HERE)},
    {"grammar": schema({"enum": ["ab", "aba", 12, True]}, *HERE)},
    {"grammar": regex("ab", *HERE), "reasoning": THINKING},
    {"reasoning": THINKING, "reasoning_end_ids": (9, 4)},
    {"grammar": regex("(true|12)+", *HERE), "reasoning": THINKING, "reasoning_end_ids": (9, 11, 5)},
)


def wishes(number):
    """Of many, one after the other: a guide or none, a budget where there is thinking, and a wish of the sampler."""
    guided = ({}, *GUIDES)[number % 8]
    budget = (None, 0, 3, -1)[number // 8 % 4] if "reasoning_end_ids" in guided else None
    return {"guided": guided, "thinking_token_budget": budget} | SHAPES[number // 3 % len(SHAPES)]


@BOTH
@pytest.mark.parametrize("num_pages", [14, 64])
def test_guided_answers_and_free_ones_are_what_they_are_alone(num_pages, overlap):
    """With too little room for all, so that some are preempted; with biases, penalties and bans on top."""
    world = World(num_pages=num_pages, overlap=overlap)
    for i in range(64):
        how = {"eos": None if i % 5 == 3 else EOS, "ignore_eos": i % 5 == 3, "min_tokens": i % 4 * (i % 3)}
        world.add(prompt(1 + i % 9, 2 + i % 3), max_tokens=6 + i % 21, stops=(STOP,), seed=i, **how, **wishes(i))
        if i % 3 == 0:
            world.step()
    world.run()
    world.check()
    reasons = {world.reason(request) for request in world.requests.values()}
    assert {"stop", "length"} <= reasons
    assert bool(world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"]) == (num_pages == 14)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), overlap=st.booleans(), num_pages=st.sampled_from([12, 64]))
def test_any_mix_of_families_searches_and_aborts_changes_no_answer(data, overlap, num_pages):
    world, aborted = World(num_pages=num_pages, overlap=overlap), set()
    for _ in range(data.draw(st.integers(1, 8))):
        how, ids = (
            wishes(data.draw(st.integers(0, 63))),
            prompt(data.draw(st.integers(1, 20)), data.draw(st.integers(2, 4))),
        )
        kind, tokens = data.draw(st.sampled_from(["one", "one", "group", "search"])), data.draw(st.integers(1, 12))
        how["priority"] = data.draw(st.integers(0, 1))
        if kind == "search":
            request = world.search(ids, data.draw(st.integers(1, 3)), max_tokens=tokens, **how)
        else:
            request = world.add_group(ids, 1 if kind == "one" else 3, max_tokens=tokens, **how)[0]
        for _ in range(data.draw(st.integers(0, 3))):
            world.step()
            world.audit()
        if data.draw(st.integers(0, 4)) == 0:
            world.scheduler.finish(request.request_id)
            aborted.add(request.request_id)
    world.run()
    for request in world.requests.values():
        if request.request_id not in aborted:
            world.check(request)
    for request in world.searches.values():
        if request.request_id not in aborted:
            world.check_search(request)


@BOTH
def test_what_ends_with_stop_is_in_the_language_and_what_is_cut_is_the_beginning_of_one(overlap):
    world = World(overlap=overlap, num_pages=200)
    requests = [
        world.add(prompt(1 + i), max_tokens=1 + i % 14, seed=i, guided=GUIDES[0], temperature=1.0) for i in range(40)
    ]
    world.run()
    for request in requests:
        *said, last = world.tokens(request)
        if world.reason(request) == "stop":
            assert last == EOS and re.fullmatch(PAIRS, b"".join(TOKENS[one] for one in said).decode())
        else:
            assert re.fullmatch(f"({PAIRS})?[ab]?", b"".join(TOKENS[one] for one in (*said, last)).decode())
    assert {world.reason(request) for request in requests} == {"stop", "length"}


@BOTH
@pytest.mark.parametrize("guided", GUIDES)
def test_beams_follow_the_grammar_each_on_its_own(guided, overlap):
    world = World(overlap=overlap, num_pages=100)
    for i in range(10):
        how = {"min_tokens": i % 3 * 2, "thinking_token_budget": i % 4 if "reasoning_end_ids" in guided else None}
        world.search(
            prompt(5 + i), 1 + i % 4, max_tokens=9 + i, stops=(STOP,), guided=guided, **how, **SHAPES[i % len(SHAPES)]
        )
        world.add(prompt(3 + i), max_tokens=9, guided=guided, **how)
    world.run()
    world.check()


@BOTH
def test_choices_of_one_prompt_have_a_place_each(overlap):
    world = World(overlap=overlap, num_pages=100)
    group = world.add_group(prompt(9), 6, max_tokens=30, temperature=1.0, guided=GUIDES[1])
    world.run()
    world.check()
    assert len({world.tokens(one) for one in group}) > 1


@pytest.mark.parametrize("guided", [{"grammar": regex("ab", *HERE)}, GUIDES[5]], ids=["grammar", "budget"])
def test_a_step_waits_only_while_somebody_keeps_to_something(guided):
    world = World(overlap=True)
    free = world.add(prompt(3), max_tokens=40, eos=None)
    goes_on = world.add(prompt(5), max_tokens=40, eos=None, ignore_eos=True, thinking_token_budget=2, guided=guided)
    world.run()
    world.check()
    waiting = [at for at, plan in enumerate(world.plans) if plan.needs_previous_tokens]
    assert waiting == list(range(waiting[0], waiting[-1] + 1))
    assert (
        1 <= len(waiting) <= 4
    )  # two tokens and the end of the thinking; one more that was planned before it was home
    assert len(world.tokens(free)) == len(world.tokens(goes_on)) == 40


def test_who_thinks_before_a_grammar_may_only_not_end_yet():
    world = World()
    world.add(
        prompt(6),
        max_tokens=9,
        eos=None,
        guided={"grammar": regex("ab", *HERE), "reasoning": UntilToken(frozenset())},
    )
    masks, asked = [], world.scheduler.make_masks
    world.scheduler.make_masks = lambda plan: masks.append(asked(plan)) or masks[-1]
    world.run()
    world.check()
    drawn = [mask for one in masks for mask in (*(mask for _, mask in one.decode), *(mask for [mask] in one.chunks))]
    forbidden = [np.flatnonzero(np.unpackbits((~mask.allowed_M).view(np.uint8), bitorder="little")) for mask in drawn]
    assert len(drawn) == 9 and all(ids.tolist() == [EOS] for ids in forbidden)


@BOTH
def test_the_only_end_that_is_left_comes_with_the_token_before(overlap):
    world = World(overlap=overlap)
    quick = world.add(prompt(5), max_tokens=9, guided={"grammar": regex("b", *HERE)})
    asked = world.add(prompt(5), max_tokens=9, guided={"grammar": regex("b", *HERE)}, logprobs=1)
    two = world.add(prompt(5), max_tokens=9, guided={"grammar": regex("b", *HERE)}, stops=(STOP,))
    cut = world.add(prompt(5), max_tokens=1, guided={"grammar": regex("b", *HERE)})
    world.run()
    world.check()
    b = TOKENS.index(b"b")
    assert [output.token_ids for output in world.outputs[quick.request_id]] == [(b, EOS)]
    assert [output.token_ids for output in world.outputs[asked.request_id]] == [(b,), (EOS,)]
    assert [len(output.token_ids) for output in world.outputs[two.request_id]] == [1, 1]
    assert (world.tokens(cut), world.reason(cut)) == ((b,), "length")
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["generation_tokens"] == 2 + 2 + 2 + 1


@BOTH
def test_an_end_that_a_ban_forbids_is_not_taken(overlap):
    world = World(overlap=overlap)
    request = world.add(prompt(5), max_tokens=9, guided={"grammar": regex("b", *HERE)}, bad=((EOS,),))
    world.run()
    error = world.outputs[request.request_id][-1].error
    assert isinstance(error, InvalidParameter) and "grammar" in str(error)


@BOTH
def test_stop_tokens_that_min_tokens_holds_back_are_let_go_where_nothing_else_is_left(overlap):
    world = World(overlap=overlap)
    short = world.add(prompt(5), max_tokens=9, min_tokens=6, guided={"grammar": regex("a?b", *HERE)}, stops=(STOP,))
    longer = world.add(prompt(5), max_tokens=9, min_tokens=6, guided={"grammar": regex("[12]+", *HERE)})
    only = world.add(
        prompt(5), max_tokens=9, min_tokens=6, guided={"grammar": regex("[12]*", *HERE)}, allowed_token_ids=(EOS, 5)
    )
    world.run()
    world.check()
    assert len(world.tokens(short)) < 6 and world.reason(short) == "stop"
    assert len(world.tokens(longer)) >= 6
    assert world.tokens(only) == (EOS,)


class Breaks:
    """A grammar whose matcher is in order for so many tokens."""

    param = "tools"

    def __init__(self, grammar, after):
        self.grammar, self.after = grammar, after

    def new_matcher(self):
        return _Breaking(self.grammar.new_matcher(), self.after)


class _Breaking:
    def __init__(self, real, left):
        self.real, self.left = real, left

    def __getattr__(self, name):
        return getattr(self.real, name)

    def deep_copy(self):
        return _Breaking(self.real.deep_copy(), self.left)

    def consume_token(self, token):
        self.left -= 1
        return self.real.consume_token(token)

    def is_error(self):
        return self.left <= 0

    def get_error(self):
        return "too many states"


@BOTH
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_grammar_that_cannot_be_followed_ends_its_request_alone(after, overlap):
    world = World(overlap=overlap, num_pages=100)
    guided = {"grammar": Breaks(regex("[ab]*", *HERE), after)}
    broken = [
        world.add(prompt(5), max_tokens=9, eos=None, ignore_eos=True, guided=guided, min_tokens=9, temperature=1.0),
        world.search(prompt(5), 2, max_tokens=9, eos=None, guided=guided, min_tokens=9),
    ]
    others = [world.add(prompt(5), max_tokens=12, seed=i, guided=GUIDES[i]) for i in range(3)]
    world.run()
    world.check(*others)
    for request in broken:
        last = world.outputs[request.request_id][-1]
        assert last.finish_reason is FinishReason.ERROR
        assert isinstance(last.error, InvalidParameter) and last.error.param == "tools"
        assert str(last.error).startswith("tools is too complex") and "more states than can be kept" in str(last.error)


@BOTH
def test_who_ends_a_guided_request_at_any_moment_harms_nobody(overlap):
    for steps in range(8):
        world = World(overlap=overlap, chunk=8, budget=16)
        gone = world.add(prompt(19), max_tokens=12, guided=GUIDES[2], eos=None)
        stays = [world.add(prompt(7), max_tokens=12, guided=one) for one in GUIDES[:2]]
        for _ in range(steps):
            world.step()
        world.scheduler.finish(gone.request_id)
        world.run()
        world.check(*stays)


def test_draws_under_a_grammar_are_counted_and_the_time_of_their_masks_by_step():
    world = World(num_pages=100)
    world.add_group(prompt(5), 2, max_tokens=3, guided={"grammar": regex("[ab]{5}", *HERE)}, temperature=1.0)
    world.search(prompt(5), 2, max_tokens=3, guided={"grammar": regex("[ab]{5}", *HERE)})
    world.add(prompt(9), max_tokens=9, eos=None, allowed_token_ids=(5, 6))
    world.run()
    snapshot = world.stats.snapshot(num_running=0, num_waiting=0)
    assert snapshot.counters["grammar_masked_tokens"] == 2 * 3 + (1 + 2 + 2)
    guided = {1, 2, 3}
    decoded = [plan.decode.request_ids if plan.decode else () for plan in world.plans]
    drawn = [{*ids, *(one.request_id for one in plan.chunks)} for ids, plan in zip(decoded, world.plans, strict=True)]
    steps = sum(1 for plan, ids in zip(world.plans, drawn, strict=True) if ids & guided or plan.beams)
    assert sum(snapshot.histograms["grammar_masks_seconds"].counts) == steps
