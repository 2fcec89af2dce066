"""A scheduler's whole life, by chance: whatever comes in whatever order, the books and the answers stay right."""

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxserve.engine.invariants import INVARIANTS
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request import Request
from jaxserve.errors import GenerationFailed, InvalidParameter
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.faulty_runner import STAGES
from tests.engine.world import ADAPTERS, EOS, PAGE, SHAPES, STOP, WINDOWS, World, prompt
from tests.expected_output import expected_output
from tests.fake_runner import VOCAB
from tests.grammars import UntilToken, regex

GUIDES = (
    {"grammar": regex("(ab|ba){1,6}", VOCAB, (EOS,))},
    {"grammar": regex("[ab12]*", VOCAB, (EOS,))},
    {"grammar": regex("ab", VOCAB, (EOS,)), "reasoning": UntilToken(frozenset([4, 11, 30]))},
    {"reasoning": UntilToken(frozenset([4, 11, 30])), "reasoning_end_ids": (9, 4)},
)
IS_LONG = bool(os.environ.get("LONG_TESTS"))  # 2000 lives of 100 steps, for an hour


class BrokenDetector:
    """A repetition detector that raises at every token."""

    def push(self, token: int) -> bool:
        raise RuntimeError(token)


class Life(RuleBasedStateMachine):
    """Anything in any order on a small pool. What a request hears is always a beginning of its true answer."""

    @initialize(
        num_pages=st.integers(4, 24),
        max_num_seqs=st.integers(1, 4),
        pages_per_step=st.integers(1, 6),
        chunk=st.sampled_from([4, 8, 16]),
        overlap=st.booleans(),
        prefix=st.booleans(),
        max_tokens_per_row=st.sampled_from([1, 2, 5]),
        windows=st.sampled_from(WINDOWS),
        num_states=st.sampled_from([0, 0, 1, 2]),
        num_snapshots=st.integers(0, 4),
        num_host_snapshots=st.sampled_from([0, 0, 3]),
        num_adapter_slots=st.integers(1, 3),
    )
    def open(self, num_pages, max_num_seqs, pages_per_step, chunk, **settings) -> None:
        budget = max_num_seqs + PAGE * pages_per_step
        self.world = World(num_pages=num_pages, max_num_seqs=max_num_seqs, budget=budget, chunk=chunk, **settings)
        self.aborted: set[int] = set()
        self.broken: set[int] = set()  # requests whose host work raises

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
        caller=st.sampled_from(["", "", "other"]),
        borders=st.lists(st.integers(1, 40), max_size=2),
        adapter=st.sampled_from([None, None, *ADAPTERS]),
    )
    def add(self, data, shared, own, max_tokens, min_tokens, shape, choices, adapter, **params) -> None:
        tokens = [*prompt(shared), *own][: self.world.longest - 1]
        eos = data.draw(st.sampled_from([EOS, None]))
        how = params | shape | {"max_tokens": max_tokens, "min_tokens": min(min_tokens, max_tokens), "eos": eos}
        how |= {"guided": {"adapter": adapter}}
        if choices == 1:
            self.world.add(tokens, **how)
        else:
            self.world.add_group(tokens, choices, **(how | {"temperature": 1.0}))

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
        adapter=st.sampled_from([None, None, *ADAPTERS]),
    )
    def search(self, data, shared, divisor, shape, adapter, **params) -> None:
        tokens = [*prompt(shared), 3][: self.world.longest - 1]
        how = params | shape | {"eos": data.draw(st.sampled_from([EOS, None])), "stops": (STOP,)}
        how |= {"guided": {"adapter": adapter}}
        self.world.search(tokens, data.draw(st.integers(1, self.world.max_num_seqs)), divisor=divisor, **how)

    @rule(
        guided=st.sampled_from(GUIDES),
        shared=st.integers(0, 20),
        max_tokens=st.integers(1, 30),
        budget=st.sampled_from([None, 0, 3]),
        shape=st.sampled_from(SHAPES),
        choices=st.sampled_from([1, 1, 3]),
    )
    def add_guided(self, guided, shared, budget, shape, choices, **params) -> None:
        """A request that follows a grammar or a thinking budget."""
        tokens = [*prompt(shared), 3][: self.world.longest - 1]
        how = {"guided": guided, "thinking_token_budget": budget if "reasoning_end_ids" in guided else None}
        how |= params | shape
        if choices == 1:
            self.world.add(tokens, **how)
        else:
            self.world.add_group(tokens, choices, **(how | {"temperature": 1.0}))

    @rule(request_id=st.integers(1, 30))
    def abort(self, request_id) -> None:
        live = self.world.scheduler.request_ids()
        owners = [one.request_id for one in self.world.searches.values() if request_id in one.choice_ids]
        self.aborted |= {request_id, *owners} & set(live)
        self.world.scheduler.finish(request_id)

    @rule(moment=st.sampled_from(["when_enqueued", "before_apply"]), number=st.integers(0, 9))
    def abort_between_plan_and_apply(self, moment, number) -> None:
        """The next step loses one of its requests while it is on the device, or when its results are there."""

        def abort_one(plan: StepPlan) -> None:
            ids = sorted(plan.request_ids)
            self.abort(request_id=ids[number % len(ids)])

        setattr(self.world, moment, abort_one)
        self.world.step()

    @rule(times=st.integers(1, 4))
    def step(self, times) -> None:
        for _ in range(times):
            idle, work = not self.world.in_flight, self.world.scheduler.has_work
            num_failed = self.world.num_failed_allocations
            outputs = self.world.step()
            may_stand_still = not idle or not work or self.world.num_failed_allocations > num_failed
            assert self.world.plans[-1] or outputs or may_stand_still, "work waits and nothing runs"

    @rule(times=st.integers(1, 5))
    def press(self, times) -> None:
        """The next allocations fail as if no page were free."""
        self.world.failing_allocations = times

    @rule(seconds=st.sampled_from([1, 700, 10**9]))
    def jump(self, seconds) -> None:
        self.world.pass_time(seconds)

    @rule()
    def pause(self) -> None:
        self.world.scheduler.pause()

    @precondition(lambda self: self.world.scheduler.is_paused)
    @rule()
    def resume(self) -> None:
        self.world.scheduler.resume()

    @rule(preempt_running=st.booleans())
    def reset_prefix_cache(self, preempt_running) -> None:
        world = self.world
        may_reset = preempt_running or not world.scheduler.num_running
        assert world.scheduler.reset_prefix_cache(preempt_running=preempt_running) == may_reset
        assert not may_reset or not any(map(len, world.cache.indexes))

    @precondition(lambda self: self.world.scheduler.has_work)
    @rule(data=st.data())
    def sicken(self, data) -> None:
        request_id = data.draw(st.sampled_from(self.world.scheduler.request_ids()))
        self.world.runner.nan_request_ids.add(request_id)

    @precondition(lambda self: not self.steps_may_fail())
    @rule(stage=st.sampled_from(STAGES), calls_left=st.integers(0, 3))
    def fail_step(self, stage, calls_left) -> None:
        self.world.runner.calls_left[stage] = calls_left

    @precondition(lambda self: self.world.scheduler.has_work and not self.steps_may_fail())
    @rule(data=st.data(), stage=st.sampled_from(STAGES))
    def fail_steps_of_one_request(self, data, stage) -> None:
        request_id = data.draw(st.sampled_from(self.world.scheduler.request_ids()))
        self.world.runner.culprits[request_id] = stage
        self.broken.add(request_id)

    @precondition(lambda self: self.world.scheduler.has_work)
    @rule(data=st.data())
    def break_tracker(self, data) -> None:
        sequence = data.draw(st.sampled_from(list(self.world.scheduler._requests.by_id.values())))
        sequence.repetition = BrokenDetector()
        self.broken.add(sequence.request.request_id)

    @precondition(lambda self: self.world.prefix)
    @rule()
    def clear_cache(self) -> None:
        self.world.cache.clear_prefix_cache()

    def steps_may_fail(self) -> bool:
        """Whether a fault is due, or being looked for; a second one may then be blamed on a request of the first."""
        runner, scheduler = self.world.runner, self.world.scheduler
        is_searching = bool(scheduler._search._groups)
        concerned = {*scheduler.request_ids()}.union(*(plan.request_ids for plan, _ in self.world.in_flight))
        return is_searching or bool(runner.calls_left) or not runner.culprits.keys().isdisjoint(concerned)

    @invariant()
    def the_books_add_up(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.audit()
        assert world.scheduler.num_running <= world.max_num_seqs
        if world.plans:
            assert world.plans[-1].num_tokens <= world.budget
        for request in world.requests.values():
            self.heard_the_truth(request)

    def heard_the_truth(self, request: Request) -> None:
        world, truth = self.world, expected_output(request)
        heard = world.outputs[request.request_id]
        tokens, reason = world.tokens(request), world.reason(request)
        assert tokens == truth.tokens[: len(tokens)]
        assert [output.finish_reason for output in heard[:-1]] == [None] * (len(heard) - 1 if heard else 0)
        is_damaged = request.request_id in world.runner.nan_request_ids | self.broken
        if reason is not None and not (reason == "error" and is_damaged):
            assert (tokens, reason) == (truth.tokens, truth.reason)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.failing_allocations = 0
        self.world.scheduler.resume()
        self.world.run()
        assert self.world.scheduler.check_invariants([]) == dict.fromkeys(INVARIANTS, True)
        for request in self.world.requests.values():
            self.heard_the_truth(request)
            ended = self.world.reason(request) is not None
            assert ended == (request.request_id not in self.aborted)
        for request in self.world.searches.values():
            heard = [output for one in request.choice_ids for output in self.world.outputs[one]]
            if request.request_id in self.aborted:
                assert not heard
            elif request.request_id in self.world.runner.nan_request_ids | self.broken and heard[0].error:
                assert isinstance(heard[0].error, GenerationFailed | InvalidParameter) and len(heard) == 1
            else:
                self.world.check_search(request)


Life.TestCase.settings = settings(
    max_examples=2000 if IS_LONG else 200, stateful_step_count=100 if IS_LONG else 40, deadline=None
)
TestLife = Life.TestCase
