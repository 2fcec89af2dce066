"""A scheduler on a fake device, driven by hand, and what every caller hears: for the tests of scheduling."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.sizing import GroupNeeds
from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.errors import InvalidParameter
from jaxserve.layers.adapter import Adapter
from jaxserve.outputs import TokenOutput
from jaxserve.sampling_params import SamplingParams
from tests.engine.event_replay import EventReplay
from tests.engine.faulty_runner import DeviceFault, FaultyRunner
from tests.expected_output import ExpectedOutput, NoTokens, expected_beams, expected_output
from tests.fake_runner import NUM_TOP, VOCAB
from tests.grammars import TRACKERS

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
    max_tokens_per_row: int = 1
    windows: tuple[int | None, ...] = (None,)
    num_states: int = 0  # recurrent groups behind those with pages
    num_snapshots: int = 4
    num_host_snapshots: int = 0
    num_adapter_slots: int = 2
    outputs: dict[int, list[TokenOutput]] = field(default_factory=dict)
    plans: list[StepPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        needs = (GroupNeeds(window=window, page_bytes=1) for window in self.windows)
        longest_step = max(self.chunk, self.max_tokens_per_row)
        most = (need.request_pages(self.longest, longest_step, PAGE) + 1 for need in needs)
        sizes = [
            GroupSize(num_pages=self.num_pages if window is None else min(self.num_pages, num), window=window)
            for window, num in zip(self.windows, most, strict=True)
        ]
        slots = 2 + self.max_num_seqs + self.num_snapshots
        state = GroupSize(
            num_pages=slots,
            num_rows=self.max_num_seqs,
            num_host_pages=self.num_host_snapshots,
            name="recurrent state",
        )
        sizes += [state] * self.num_states
        self.replay = EventReplay()
        self.cache = CacheManager(sizes, page_size=PAGE, has_prefix_cache=self.prefix, publish=self.replay.publish)
        self.ids, self.now = itertools.count(1), itertools.count()
        self.requests: dict[int, Request] = {}
        self.searches: dict[int, Request] = {}
        self.stats = Stats(max_model_len=self.longest)
        self.runner = FaultyRunner(
            sizes, page_size=PAGE, max_num_seqs=self.max_num_seqs, max_tokens_per_row=self.max_tokens_per_row
        )
        self.scheduler = Scheduler(
            self.cache,
            self.stats,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.budget,
            max_chunk_tokens=self.chunk,
            max_pages_per_row=self.num_pages,
            vocab_size=VOCAB,
            max_logprobs=NUM_TOP,
            max_tokens_per_row=self.max_tokens_per_row,
            trackers=TRACKERS,
            num_adapter_slots=self.num_adapter_slots,
            clock=lambda: float(next(self.now)),
        )
        self.in_flight: list[tuple[StepPlan, object]] = []
        self.when_enqueued: Callable[[StepPlan], None] | None = None  # is called once, when a step is on the device
        self.before_apply: Callable[[StepPlan], None] | None = None  # is called once, when results are on the host
        self.failing_allocations = 0  # so many of the next ones fail as if no page were free
        self.num_failed_allocations = 0
        self._allocate, self.cache._allocate = self.cache._allocate, self._try_allocate

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
        borders=(),
        caller="",
        label="",
        is_timed=False,
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
            stop_ids_until_min_tokens=(EOS, *stops),
            bad_sequences=tuple(bad),
            parent_id=leader,
            num_siblings=followers,
            snapshot_borders=tuple(borders),
            cache_salt=salt,
            caller=caller,
            label=label,
            is_timed=is_timed,
            **guided,
        )
        self.requests[request.request_id] = request
        self.outputs[request.request_id] = []
        self.scheduler.add(request)
        return request

    def search(
        self, prompt, n, *, max_tokens=6, divisor=None, eos=EOS, stops=(), bad=(), guided=NOT_GUIDED, **params
    ) -> Request:
        """A beam search, of a length that the pool can hold."""
        ids = tuple(next(self.ids) for _ in range(n))
        most = min(max_tokens, self.longest - len(prompt))
        max_tokens = max_beam_tokens(len(prompt), n, most, self.cache.sizes, PAGE)
        params["min_tokens"] = min(params.get("min_tokens", 0), max_tokens)
        params |= {"stop": str(divisor)} if divisor else {}
        request = Request(
            request_id=ids[0],
            prompt_ids=tuple(prompt),
            params=SamplingParams(max_tokens=max_tokens, n=n, use_beam_search=True, **params),
            seed=0,
            max_total_tokens=len(prompt) + max_tokens,
            eos_id=eos,
            stop_ids=frozenset(stops),
            stop_ids_until_min_tokens=(EOS, *stops),
            bad_sequences=tuple(bad),
            choice_ids=ids,
            **guided,
        )
        self.searches[request.request_id] = request
        self.outputs.update({one: [] for one in ids})
        self.scheduler.add(request)
        return request

    def check_search(self, request: Request) -> None:
        """Its answers are those of the plain search, each told at once and whole."""
        try:
            truth = expected_beams(request)
        except NoTokens:
            assert isinstance(self.outputs[request.request_id][0].error, InvalidParameter)
            return
        told = [self.outputs[one] for one in request.choice_ids]
        assert [len(outputs) for outputs in told] == [1] * len(truth)
        heard = [
            ExpectedOutput(
                output.token_ids,
                str(output.finish_reason),
                tuple(one.logprob for one in output.logprobs or ()),
                output.prompt_logprobs or (),
            )
            for [output] in told
        ]
        wanted = request.params.logprobs is not None
        assert heard == [one if wanted else replace(one, logprobs=()) for one in truth], request

    def _try_allocate(self, *args: Any) -> tuple[list[int], ...] | None:
        if not self.failing_allocations:
            return self._allocate(*args)
        self.failing_allocations -= 1
        self.num_failed_allocations += 1
        return None

    def pass_time(self, seconds: int) -> None:
        """Let the clock go on by so much at once, as after a sleep of the machine."""
        self.now = itertools.count(next(self.now) + seconds)

    def step(self) -> list[TokenOutput]:
        """One step of the engine; the device's memory is lost if it raises."""
        outputs: list[TokenOutput] = []
        try:
            self._step(outputs)
        except DeviceFault as error:
            lost = set().union(*(plan.request_ids for plan in (self.plans[-1], *(one for one, _ in self.in_flight))))
            self.in_flight.clear()
            self.pass_time(1000)  # so rarely that the device is not taken for broken
            self.scheduler.restart(lost, error)
            self.runner.reset()
        outputs += self.scheduler.take_failed()
        for output in outputs:
            self.outputs[output.request_id].append(output)
        return outputs

    def _step(self, outputs: list[TokenOutput]) -> None:
        """One turn: with overlap a plan is made before the results of the one before are home."""
        plan = self.scheduler.plan()
        self.plans.append(plan)
        if plan:
            work = self.runner.forward(plan)
            self._call_once("when_enqueued", plan)
            while plan.needs_previous_tokens and self.in_flight:
                self.apply_oldest(outputs)
            self.in_flight.append((plan, self.runner.sample(work, self.scheduler.make_masks(plan))))
        if self.in_flight and (len(self.in_flight) > self.overlap or not plan):
            self.apply_oldest(outputs)

    def apply_oldest(self, outputs: list[TokenOutput]) -> None:
        plan, ticket = self.in_flight[0]
        result = self.runner.fetch(ticket)
        self.in_flight.pop(0)
        self._call_once("before_apply", plan)
        self.scheduler.apply(plan, result, outputs)
        self.stats.on_step(plan.num_prompt_tokens, host_s=0.0)

    def _call_once(self, name: str, plan: StepPlan) -> None:
        hook = getattr(self, name)
        setattr(self, name, None)
        if hook is not None:
            hook(plan)

    def audit(self) -> None:
        """Raise CacheInvariantError if an invariant does not hold, and fail if events do not tell what is cached."""
        self.replay.check(self.cache)
        self.scheduler.audit([plan for plan, _ in self.in_flight])

    def add_group(self, prompt, n, *, seed=0, **how) -> list[Request]:
        """n choices of one prompt, as a door asks for them."""
        leader = self.add(prompt, seed=seed, followers=n - 1, **how)
        how["prompt_logprobs"] = None
        return [leader, *(self.add(prompt, seed=seed + i, leader=leader.request_id, **how) for i in range(1, n))]

    def run(self, max_steps: int = 20_000) -> None:
        """To the end; every step is audited, and a world that stands still fails."""
        for _ in range(max_steps):
            if not self.scheduler.has_work and not self.in_flight:
                break
            idle = not self.in_flight
            outputs = self.step()
            assert not idle or self.plans[-1] or outputs, "work waits and nothing runs"
            self.audit()
        assert not self.scheduler.has_work
        assert (self.scheduler.num_running, self.scheduler.num_waiting, self.cache.num_active) == (0, 0, 0)

    def tokens(self, request: Request) -> tuple[int, ...]:
        return tuple(token for output in self.outputs[request.request_id] for token in output.token_ids)

    def reason(self, request: Request) -> str | None:
        return next((str(o.finish_reason) for o in self.outputs[request.request_id] if o.finish_reason), None)

    def check(self, *requests: Request) -> None:
        """Each heard exactly what it would have heard alone."""
        for request in requests or self.requests.values():
            truth = expected_output(request)
            assert (self.tokens(request), self.reason(request)) == (truth.tokens, truth.reason), request
        for request in () if requests else self.searches.values():
            self.check_search(request)


def prompt(length: int, start: int = 2) -> list[int]:
    return [start + i % 7 for i in range(length)]


WINDOWS = ((None,), (None, 6), (9, None), (5,), (None, 3, 10))
"""Windows of the cache groups of a model; None is full attention."""

ADAPTERS = (None, *(Adapter(name, f"key of {name}", 4, {}) for name in ("a", "b", "c", "d")))
"""No adapter, and more of them than a world has slots."""

BOTH = pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])

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
