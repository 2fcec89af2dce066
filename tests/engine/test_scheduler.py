"""Whatever happens around a request, its answer is that of a request alone in the world; and nothing leaks."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.searches import most_steps
from jaxserve.engine.stats import Stats
from jaxserve.errors import GenerationFailed, InvalidParameter
from jaxserve.kvcache.pool import PagePool
from jaxserve.kvcache.prefix import PrefixIndex, page_keys
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling_params import RepetitionDetection, SamplingParams
from tests.fakes import NUM_TOP, VOCAB, Answer, FakeRunner, NoTokens, SumCursor, answer, search

PAGE = 4
EOS, STOP = 0, 1
NOT_GUIDED: Mapping[str, Any] = {}


@dataclass
class World:
    """A scheduler, a fake device, and a loop around them; collects what every caller hears."""

    num_pages: int = 64
    max_num_seqs: int = 8
    budget: int = 32
    chunk: int = 16
    overlap: bool = False
    prefix: bool = True
    heard: dict[int, list[TokenOutput]] = field(default_factory=dict)
    plans: list[StepPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = PagePool(self.num_pages)
        self.index = PrefixIndex(self.pool, PAGE) if self.prefix else None
        self.ids, self.now = itertools.count(1), itertools.count()
        self.requests: dict[int, Request] = {}
        self.searches: dict[int, Request] = {}
        self.stats = Stats(max_model_len=self.longest)
        self.runner = FakeRunner(num_pages=self.num_pages, page_size=PAGE, max_num_seqs=self.max_num_seqs)
        self.scheduler = Scheduler(
            self.pool,
            self.index,
            self.stats,
            page_size=PAGE,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.budget,
            max_chunk_tokens=self.chunk,
            max_pages_per_row=self.num_pages,
            vocab_size=VOCAB,
            max_logprobs=NUM_TOP,
            clock=lambda: float(next(self.now)),
        )
        self.flying: list[tuple[StepPlan, object]] = []

    @property
    def longest(self) -> int:
        return (self.num_pages - 1) * PAGE

    def add(
        self,
        prompt,
        *,
        max_tokens=6,
        salt=None,
        seed=0,
        eos=EOS,
        stops=(),
        bad=(),
        followers=0,
        leader=None,
        guided=NOT_GUIDED,
        **params,
    ) -> Request:
        """guided: the fields of a request that say what its answer must be."""
        sampling = SamplingParams(max_tokens=max_tokens, **({"temperature": 0.0} | params))
        request = Request(
            request_id=next(self.ids),
            prompt_ids=tuple(prompt),
            params=sampling,
            seed=seed,
            max_total_tokens=min(len(prompt) + max_tokens, self.longest),
            eos_id=eos,
            stop_ids=frozenset(stops),
            held_back_ids=(EOS, *stops),
            bad_sequences=tuple(bad),
            leader_id=leader,
            num_followers=followers,
            cache_salt=salt,
            **guided,
        )
        self.requests[request.request_id] = request
        self.heard[request.request_id] = []
        self.scheduler.add(request)
        return request

    def search(
        self, prompt, n, *, max_tokens=6, cursor=None, eos=EOS, stops=(), bad=(), guided=NOT_GUIDED, **params
    ) -> Request:
        """A beam search, of a length that the pool can hold."""
        ids = tuple(next(self.ids) for _ in range(n))
        most = min(most_steps(len(prompt), n, self.num_pages - 1, PAGE), self.longest - len(prompt))
        max_tokens = min(max_tokens, most)
        params["min_tokens"] = min(params.get("min_tokens", 0), max_tokens)
        request = Request(
            request_id=ids[0],
            prompt_ids=tuple(prompt),
            params=SamplingParams(max_tokens=max_tokens, n=n, use_beam_search=True, **params),
            seed=0,
            max_total_tokens=len(prompt) + max_tokens,
            eos_id=eos,
            stop_ids=frozenset(stops),
            held_back_ids=(EOS, *stops),
            bad_sequences=tuple(bad),
            choice_ids=ids,
            cursor=cursor,
            **guided,
        )
        self.searches[request.request_id] = request
        self.heard.update({one: [] for one in ids})
        self.scheduler.add(request)
        return request

    def check_search(self, request: Request) -> None:
        """Its answers are those of the plain search, each told at once and whole."""
        try:
            truth = search(request)
        except NoTokens:
            assert isinstance(self.heard[request.request_id][0].error, InvalidParameter)
            return
        told = [self.heard[one] for one in request.choice_ids]
        assert [len(outputs) for outputs in told] == [1] * len(truth)
        heard = [
            Answer(
                output.token_ids,
                str(output.finish_reason),
                tuple(one.logprob for one in output.logprobs or ()),
                output.prompt_logprobs or (),
            )
            for [output] in told
        ]
        wanted = request.params.logprobs is not None
        assert heard == [one if wanted else replace(one, logprobs=()) for one in truth], request

    def step(self) -> list[TokenOutput]:
        """One turn: with overlap a plan is made before the results of the one before are home."""
        plan, outputs = self.scheduler.plan(), []
        self.plans.append(plan)
        if plan:
            work = self.runner.forward(plan)
            while plan.waits and self.flying:
                outputs += self.land()
            self.flying.append((plan, self.runner.draw(work, self.scheduler.masks(plan))))
        if self.flying and (len(self.flying) > self.overlap or not plan):
            outputs += self.land()
        for output in outputs:
            self.heard[output.request_id].append(output)
        return outputs

    def land(self) -> list[TokenOutput]:
        plan, ticket = self.flying.pop(0)
        return self.scheduler.apply(plan, self.runner.fetch(ticket))

    def add_family(self, prompt, n, *, seed=0, **how) -> list[Request]:
        """n choices of one prompt, as a door asks for them."""
        leader = self.add(prompt, seed=seed, followers=n - 1, **how)
        how["prompt_logprobs"] = None
        return [leader, *(self.add(prompt, seed=seed + i, leader=leader.request_id, **how) for i in range(1, n))]

    def run(self, max_steps: int = 2000) -> None:
        """To the end; every step is audited, and a world that stands still fails."""
        for _ in range(max_steps):
            if not self.scheduler.has_work and not self.flying:
                break
            idle = not self.flying
            self.step()
            assert not idle or self.plans[-1], "work waits and nothing runs"
            self.scheduler.audit()
        assert not self.scheduler.has_work
        assert (self.scheduler.num_running, self.scheduler.num_waiting, self.pool.num_active) == (0, 0, 0)

    def tokens(self, request: Request) -> tuple[int, ...]:
        return tuple(token for output in self.heard[request.request_id] for token in output.token_ids)

    def reason(self, request: Request) -> str | None:
        return next((str(o.finish_reason) for o in self.heard[request.request_id] if o.finish_reason), None)

    def check(self, *requests: Request) -> None:
        """Each heard exactly what it would have heard alone."""
        for request in requests or self.requests.values():
            truth = answer(request)
            assert (self.tokens(request), self.reason(request)) == (truth.tokens, truth.reason), request
        for request in () if requests else self.searches.values():
            self.check_search(request)


def prompt(length: int, start: int = 2) -> list[int]:
    return [start + i % 7 for i in range(length)]


BOTH = pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])


@BOTH
@pytest.mark.parametrize("length", [1, 3, 4, 5, 16, 17, 50])
def test_a_request_alone_gets_its_answer(length, overlap):
    world = World(overlap=overlap)
    world.add(prompt(length), max_tokens=20)
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("chunk", [4, 8, 16, 64])
def test_a_prompt_in_chunks_is_a_prompt_at_once(chunk, overlap):
    world = World(chunk=chunk, budget=64, overlap=overlap)
    request = world.add(prompt(45))
    world.run()
    world.check()
    chunks = [part for plan in world.plans for part in plan.chunks]
    assert [part.start for part in chunks] == list(range(0, 45, chunk))
    assert [part.is_last for part in chunks] == [False] * (len(chunks) - 1) + [True]
    assert world.tokens(request)


@BOTH
def test_a_prefix_hit_changes_nothing_but_the_work(overlap):
    world = World(overlap=overlap)
    for tail in range(3):
        world.add([*prompt(24), 20 + tail], max_tokens=9)
        world.run()
    world.check()
    cached = [world.heard[request_id][0].num_cached_tokens for request_id in world.requests]
    assert cached == [0, 24, 24]


def test_the_same_prompt_again_still_computes_its_last_token():
    world = World()
    for _ in range(2):
        world.add(prompt(24), max_tokens=3)
        world.run()
    world.check()
    assert world.heard[2][0].num_cached_tokens == 20


def test_an_answer_can_be_found_again_as_a_prefix():
    world = World()
    first = world.add(prompt(6), max_tokens=13, eos=None)
    world.run()
    world.add([*first.prompt_ids, *world.tokens(first), 3], max_tokens=3)
    world.run()
    world.check()
    assert world.heard[2][0].num_cached_tokens == 16


def test_another_salt_finds_nothing():
    world = World()
    for salt in (None, "a", "b", "a"):
        world.add(prompt(24), salt=salt)
        world.run()
    assert [world.heard[i][0].num_cached_tokens for i in (1, 2, 3, 4)] == [0, 0, 0, 20]


def test_without_an_index_nothing_is_cached():
    world = World(prefix=False)
    for _ in range(2):
        world.add(prompt(24))
        world.run()
    world.check()
    assert world.pool.num_cached == world.heard[2][0].num_cached_tokens == 0


@BOTH
def test_alone_is_as_in_a_crowd(overlap):
    world = World(overlap=overlap)
    for i in range(20):
        world.add(prompt(1 + 3 * i, 2 + i % 5), max_tokens=1 + i, temperature=float(i % 3), seed=i, top_k=i)
        world.step()
    world.run()
    world.check()


@BOTH
@pytest.mark.parametrize("prefix", [True, False])
def test_preempted_is_undisturbed(overlap, prefix):
    world = World(num_pages=16, overlap=overlap, prefix=prefix)
    for i in range(4):
        world.add(prompt(5, 2 + i), max_tokens=30, eos=None)
    world.run()
    world.check()
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"] > 0


@BOTH
def test_the_youngest_is_preempted_and_comes_back_before_newcomers(overlap):
    world = World(num_pages=10, max_num_seqs=2, overlap=overlap)
    old, young, newcomer = (world.add(prompt(8, 2 + i), max_tokens=20, eos=None) for i in range(3))
    world.run()
    world.check()
    lives = [(chunk.request_id, chunk.epoch) for plan in world.plans for chunk in plan.chunks]
    first, second, third = old.request_id, young.request_id, newcomer.request_id
    assert lives[:3] == [(first, 0), (second, 0), (second, 1)]
    assert lives.index((second, 1)) < lives.index((third, 0))


def test_who_came_last_is_preempted_even_if_it_started_first():
    world = World(num_pages=17, chunk=8, budget=12)
    world.add(prompt(17), max_tokens=12, eos=None)
    waits_for_the_prefix = world.add([*prompt(16), 30], max_tokens=40, eos=None)
    overtakes = world.add(prompt(5, 9), max_tokens=40, eos=None)
    world.run()
    world.check()
    chunks = [chunk for plan in world.plans for chunk in plan.chunks]
    starts = [chunk.request_id for chunk in chunks if chunk.epoch == 0]
    assert starts.index(overtakes.request_id) < starts.index(waits_for_the_prefix.request_id)
    assert {chunk.request_id for chunk in chunks if chunk.epoch} == {overtakes.request_id}


@BOTH
def test_who_comes_back_makes_a_page_of_tokens_before_it_is_preempted_again(overlap):
    world = World(num_pages=24, max_num_seqs=6, budget=100, chunk=96, overlap=overlap)
    for i in range(6):
        world.add(prompt(4 + i, 2 + i), max_tokens=50, eos=None)
    world.run()
    world.check()
    lives: Counter[tuple[int, int]] = Counter()
    for plan in world.plans:
        lives.update((chunk.request_id, chunk.epoch) for chunk in plan.chunks if chunk.is_last)
        if plan.decode:
            lives.update(zip(plan.decode.request_ids, plan.decode.epochs, strict=True))
    last = {i: max(epoch for other, epoch in lives if other == i) for i, _ in lives}
    assert all(tokens >= PAGE for (i, epoch), tokens in lives.items() if 0 < epoch < last[i])
    assert max(last.values()) > 1


@BOTH
def test_requests_start_in_the_order_in_which_they_came(overlap):
    world = World(num_pages=24, max_num_seqs=3, overlap=overlap)
    for i in range(12):
        world.add(prompt(1 + 11 * i % 40, 2 + i), max_tokens=5)
    world.run()
    starts = [chunk.request_id for plan in world.plans for chunk in plan.chunks if chunk.epoch == chunk.start == 0]
    assert starts == sorted(starts) == list(world.requests)


def test_a_long_prompt_does_not_stall_those_who_decode():
    world = World(budget=12, chunk=8)
    talker = world.add(prompt(3), max_tokens=20, eos=None)
    world.step()
    world.add(prompt(100), max_tokens=2)
    world.run()
    decodes = [plan for plan in world.plans if plan.decode and talker.request_id in plan.decode.request_ids]
    assert [world.plans.index(plan) for plan in decodes] == list(range(1, 20))
    world.check()


@pytest.mark.parametrize("length", [24, 40])
def test_equal_prompts_that_come_together_are_computed_once(length):
    world = World(max_num_seqs=8)
    for _ in range(5):
        world.add(prompt(length), max_tokens=4, temperature=1.0, seed=next(world.ids))
    world.run()
    world.check()
    assert [world.heard[i][0].num_cached_tokens for i in world.requests] == [0, *[length - PAGE] * 4]
    starts = [chunk.request_id for plan in world.plans for chunk in plan.chunks if chunk.is_last]
    assert starts == list(world.requests)


@BOTH
@pytest.mark.parametrize("length", [3, 8, 41])
@pytest.mark.parametrize("prefix", [True, False])
def test_choices_share_one_prefill_and_the_pages_of_their_prompt(length, prefix, overlap):
    world = World(overlap=overlap, prefix=prefix)
    world.add_family(prompt(length), 4, max_tokens=11, temperature=1.0, eos=None)
    for _ in range(-(-length // 16) + overlap):
        world.step()
    shared = length // PAGE
    assert world.pool.num_active >= shared
    assert [world.pool.holders(page) for page in world.scheduler._live.running[0].pages[:shared]] == [4] * shared
    world.run()
    world.check()
    chunks = [chunk for plan in world.plans for chunk in plan.chunks]
    assert {chunk.request_id for chunk in chunks} == {1}
    assert [len(chunk.forks) for chunk in chunks] == [0] * (len(chunks) - 1) + [3]
    assert sum(len(plan.copies) for plan in world.plans) == (3 if length % PAGE else 0)


@BOTH
def test_choices_without_a_row_start_by_themselves(overlap):
    world = World(max_num_seqs=3, overlap=overlap)
    world.add_family(prompt(21), 7, max_tokens=9, temperature=1.0)
    world.run()
    world.check()
    starts = {chunk.request_id for plan in world.plans for chunk in plan.chunks}
    assert starts == {1, 4, 5, 6, 7}


def test_choices_outlive_a_leader_that_is_aborted_at_any_moment():
    for steps in range(6):
        world = World(overlap=True, chunk=8, budget=8)
        leader, *others = world.add_family(prompt(19), 3, max_tokens=9, temperature=1.0)
        for _ in range(steps):
            world.step()
        world.scheduler.end(leader.request_id)
        world.scheduler.audit()
        world.run()
        world.check(*others)


SHAPES = (
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 0.5, "logit_bias": ((3, 2.0),)},
    {"presence_penalty": -1.0},
    {"allowed_token_ids": (2, 3, 5, 7, 11)},
    {"bad": [(4,), (5, 6), (2, 3, 4)]},
    {"bad": [(i, j) for i in range(2, 20) for j in range(2, 20)]},
    {},
    {"logprobs": 1, "presence_penalty": 1.0},
)


@BOTH
@pytest.mark.parametrize("num_pages", [16, 100])
def test_constraints_and_history_belong_to_their_request_alone(num_pages, overlap):
    """Also when rows change hands, and when a request comes back to another row after a preemption."""
    world = World(num_pages=num_pages, max_num_seqs=4, overlap=overlap)
    for i in range(24):
        shape = SHAPES[i % len(SHAPES)]
        world.add(prompt(3 + i, 2 + i % 3), max_tokens=14, min_tokens=i % 4, eos=None if i % 2 else EOS, **shape)
        if i % 3 == 0:
            world.step()
    world.run()
    world.check()
    preempted = world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"]
    assert bool(preempted) == (num_pages == 16)


@BOTH
def test_a_request_that_may_draw_nothing_ends_alone(overlap):
    world = World(overlap=overlap)
    hopeless = world.add(prompt(5), max_tokens=9, allowed_token_ids=(3, 4), bad=[(3,), (4,)])
    other = world.add(prompt(5), max_tokens=9)
    world.run()
    world.check(other)
    [output] = world.heard[hopeless.request_id]
    assert isinstance(output.error, InvalidParameter)
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["nonfinite_logits"] == 0


@BOTH
def test_the_first_stop_token_ends_the_answer_unless_it_is_held_back(overlap):
    world = World(overlap=overlap)
    for i in range(30):
        world.add(prompt(5 + i), max_tokens=40, stops=(STOP, 7), min_tokens=i % 3 * 10)
    world.run()
    world.check()
    ends = [o for heard in world.heard.values() for o in heard if o.finish_reason == "stop"]
    assert {o.stop_reason for o in ends} == {None, STOP, 7}
    assert all(o.token_ids[-1] == (EOS if o.stop_reason is None else o.stop_reason) for o in ends)


@BOTH
def test_an_answer_that_repeats_itself_ends_once_it_has_its_min_tokens(overlap):
    world = World(num_pages=40, overlap=overlap)
    wanted = RepetitionDetection(max_pattern_size=3, min_count=2)
    for i in range(60):
        world.add(prompt(5 + i % 20, 2 + i), max_tokens=30, min_tokens=i % 2 * 15, repetition_detection=wanted, seed=i)
    world.run()
    world.check()
    ends = [heard[-1] for heard in world.heard.values()]
    repeated = [o for o in ends if o.finish_reason is FinishReason.REPETITION]
    assert len(repeated) > 10 and {o.stop_reason for o in repeated} == {"repetition_detected"}
    assert {str(o.finish_reason) for o in ends} == {"repetition", "stop", "length"}
    assert world.stats.snapshot(num_running=0, num_waiting=0).finished["repetition"] == len(repeated)


@BOTH
def test_logprobs_come_with_their_tokens(overlap):
    world = World(overlap=overlap)
    request = world.add(prompt(9), logprobs=2, max_tokens=7, eos=None)
    world.add(prompt(9, 3), max_tokens=7)
    world.run()
    heard = [entry for output in world.heard[request.request_id] for entry in output.logprobs]
    assert tuple(entry.logprob for entry in heard) == answer(request).logprobs
    assert tuple(entry.token_id for entry in heard) == world.tokens(request)
    assert {len(entry.top) for entry in heard} == {2}


@BOTH
@pytest.mark.parametrize("max_tokens", [0, 5])
@pytest.mark.parametrize("num_pages", [16, 64])
def test_prompt_logprobs_are_whole_though_the_prompt_is_known_chunked_and_preempted(max_tokens, num_pages, overlap):
    world = World(num_pages=num_pages, chunk=8, overlap=overlap)
    for i in range(3):
        wishes = {"prompt_logprobs": 1} if i else {}
        world.add(
            prompt(26), max_tokens=max_tokens if i else 20, eos=None, echo_only=i > 0 and not max_tokens, **wishes
        )
    world.run()
    world.check()
    for request_id in (2, 3):
        [scores] = [o.prompt_logprobs for o in world.heard[request_id] if o.prompt_logprobs is not None]
        assert scores[0] is None
        assert tuple(entry.logprob for entry in scores[1:]) == answer(world.requests[request_id]).prompt_logprobs


@BOTH
def test_an_aborted_request_is_heard_no_more_and_its_neighbours_go_on(overlap):
    world = World(overlap=overlap)
    waiting, running, neighbour = (world.add(prompt(20, 2 + i), max_tokens=15, eos=None) for i in range(3))
    world.scheduler.end(waiting.request_id)
    for _ in range(5):
        world.step()
    world.scheduler.end(running.request_id)
    heard = len(world.heard[running.request_id])
    world.scheduler.audit()
    world.run()
    world.scheduler.end(running.request_id)
    world.scheduler.end(999)
    world.check(neighbour)
    assert world.heard[waiting.request_id] == [] and len(world.heard[running.request_id]) == heard


@BOTH
def test_a_sick_row_ends_alone_and_its_pages_are_not_found_again(overlap):
    world = World(overlap=overlap)
    sick, neighbour = world.add(prompt(10), max_tokens=20, eos=None), world.add(prompt(10, 4), eos=None)
    for _ in range(3 + overlap):
        world.step()
    written = len(sick.prompt_ids) + len(world.tokens(sick))
    world.runner.sick.add(sick.request_id)
    world.run()
    world.check(neighbour)
    assert world.reason(sick) == "error"
    sick_tokens = [*sick.prompt_ids, *answer(sick).tokens]
    assert len(world.index.match(page_keys(sick_tokens, PAGE))) <= written // PAGE
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["nonfinite_logits"] == 1


def test_the_page_that_a_sick_step_completes_is_not_published():
    world = World()
    sick = world.add(prompt(PAGE * 2 - 1), max_tokens=20, eos=None)  # the first decode step completes the page
    world.step()
    world.runner.sick.add(sick.request_id)
    world.run()
    assert len(world.index) == 1


@BOTH
def test_no_page_of_a_sick_prompt_is_published(overlap):
    world = World(overlap=overlap)
    sick = world.add(prompt(30))
    world.runner.sick.add(sick.request_id)
    world.run()
    assert (world.reason(sick), len(world.index)) == ("error", 0)


def test_when_the_step_fails_everyone_hears_the_same_honest_error():
    world = World(max_num_seqs=2)
    requests = [world.add(prompt(9, 2 + i)) for i in range(4)]
    world.step()
    error = RuntimeError("the device is gone")
    outputs = world.scheduler.fail_all(error)
    assert {(o.request_id, o.finish_reason, o.error) for o in outputs} == {
        (r.request_id, FinishReason.ERROR, error) for r in requests
    }
    world.scheduler.audit()
    assert not world.scheduler.has_work and world.pool.num_active == 0


def test_the_same_arrivals_make_the_same_plans():
    def trace():
        world = World(num_pages=16, overlap=True)
        for i in range(6):
            world.add(prompt(7 + i, 2 + i % 2), max_tokens=20)
            world.step()
        world.run()
        return [repr(plan) for plan in world.plans]

    assert trace() == trace()


def test_a_plan_keeps_to_the_budget_and_the_rows():
    world = World(num_pages=40, max_num_seqs=5, budget=12, chunk=8)
    for i in range(15):
        world.add(prompt(1 + 9 * i % 31, 2 + i), max_tokens=9)
    world.run()
    world.check()
    assert max(plan.num_tokens for plan in world.plans) <= 12
    assert max(len(plan.decode) for plan in world.plans if plan.decode) <= 5


class Life(RuleBasedStateMachine):
    """Anything in any order on a small pool. What a request hears is always a beginning of its true answer."""

    @initialize(
        num_pages=st.integers(4, 24),
        max_num_seqs=st.integers(1, 4),
        pages_per_step=st.integers(1, 6),
        chunk=st.sampled_from([4, 8, 16]),
        overlap=st.booleans(),
        prefix=st.booleans(),
    )
    def open(self, num_pages, max_num_seqs, pages_per_step, chunk, overlap, prefix) -> None:
        budget = max_num_seqs + PAGE * pages_per_step
        self.world = World(
            num_pages=num_pages, max_num_seqs=max_num_seqs, budget=budget, chunk=chunk, overlap=overlap, prefix=prefix
        )
        self.aborted: set[int] = set()
        self.failed: set[int] = set()

    @rule(
        data=st.data(),
        shared=st.integers(0, 40),
        own=st.lists(st.integers(2, 4), min_size=1, max_size=6),
        max_tokens=st.integers(1, 30),
        min_tokens=st.integers(0, 4),
        temperature=st.sampled_from([0.0, 1.0]),
        seed=st.integers(0, 2),
        salt=st.sampled_from([None, None, "salt"]),
        logprobs=st.sampled_from([None, None, 1]),
        prompt_logprobs=st.sampled_from([None, None, None, 1]),
        shape=st.sampled_from(SHAPES),
        choices=st.sampled_from([1, 1, 1, 2, 5]),
        repetition_detection=st.sampled_from([None, None, RepetitionDetection(max_pattern_size=2, min_count=2)]),
        priority=st.sampled_from([0, 0, 0, -1, 3]),
    )
    def add(self, data, shared, own, max_tokens, min_tokens, shape, choices, **params) -> None:
        tokens = [*prompt(shared), *own][: self.world.longest - 1]
        eos = data.draw(st.sampled_from([EOS, None]))
        how = params | shape | {"max_tokens": max_tokens, "min_tokens": min(min_tokens, max_tokens), "eos": eos}
        if choices == 1:
            self.world.add(tokens, **how)
        else:
            self.world.add_family(tokens, choices, **(how | {"temperature": 1.0}))

    @rule(
        data=st.data(),
        shared=st.integers(0, 40),
        max_tokens=st.integers(1, 12),
        min_tokens=st.integers(0, 3),
        length_penalty=st.sampled_from([1.0, 0.0, -1.0, 2.5]),
        divisor=st.sampled_from([None, None, 5, 40]),
        shape=st.sampled_from(SHAPES),
        repetition_detection=st.sampled_from([None, None, RepetitionDetection(max_pattern_size=2, min_count=2)]),
        priority=st.sampled_from([0, 0, 0, -1, 3]),
    )
    def search(self, data, shared, divisor, shape, **params) -> None:
        tokens = [*prompt(shared), 3][: self.world.longest - 1]
        how = params | shape | {"eos": data.draw(st.sampled_from([EOS, None])), "stops": (STOP,)}
        cursor = SumCursor(divisor) if divisor else None
        self.world.search(tokens, data.draw(st.integers(1, self.world.max_num_seqs)), cursor=cursor, **how)

    @rule(request_id=st.integers(1, 30))
    def abort(self, request_id) -> None:
        live = self.world.scheduler.live_ids()
        owners = [one.request_id for one in self.world.searches.values() if request_id in one.choice_ids]
        self.aborted |= {request_id, *owners} & set(live)
        self.world.scheduler.end(request_id)

    @rule(times=st.integers(1, 4))
    def step(self, times) -> None:
        for _ in range(times):
            idle, work = not self.world.flying, self.world.scheduler.has_work
            self.world.step()
            assert self.world.plans[-1] or not idle or not work, "work waits and nothing runs"

    @precondition(lambda self: self.world.scheduler.has_work)
    @rule(data=st.data())
    def sicken(self, data) -> None:
        request_id = data.draw(st.sampled_from(self.world.scheduler.live_ids()))
        self.world.runner.sick.add(request_id)

    @precondition(lambda self: self.world.index is not None)
    @rule()
    def clear_cache(self) -> None:
        self.world.index.clear()

    @invariant()
    def the_books_add_up(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.scheduler.audit()
        assert world.scheduler.num_running <= world.max_num_seqs
        if world.plans:
            assert world.plans[-1].num_tokens <= world.budget
        for request in world.requests.values():
            self.heard_the_truth(request)

    def heard_the_truth(self, request: Request) -> None:
        world, truth = self.world, answer(request)
        heard = world.heard[request.request_id]
        tokens, reason = world.tokens(request), world.reason(request)
        assert tokens == truth.tokens[: len(tokens)]
        assert [output.finish_reason for output in heard[:-1]] == [None] * (len(heard) - 1 if heard else 0)
        if reason == "error":
            assert request.request_id in world.runner.sick
        elif reason is not None:
            assert (tokens, reason) == (truth.tokens, truth.reason)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.run()
        for request in self.world.requests.values():
            self.heard_the_truth(request)
            ended = self.world.reason(request) is not None
            assert ended == (request.request_id not in self.aborted)
        for request in self.world.searches.values():
            heard = [output for one in request.choice_ids for output in self.world.heard[one]]
            if request.request_id in self.aborted:
                assert not heard
            elif request.request_id in self.world.runner.sick and heard[0].error:
                assert isinstance(heard[0].error, GenerationFailed | InvalidParameter) and len(heard) == 1
            else:
                self.world.check_search(request)


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
