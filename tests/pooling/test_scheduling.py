"""Requests that pool are scheduled as those that generate: in chunks or whole, preempted, aborted, caller by caller."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.engine.engine import Engine
from jaxserve.engine.plan import StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.models.pooling_spec import PoolingKind, PoolingSpec
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling_params import SamplingParams

PAGE, CHUNK, BUDGET, LONGEST = 4, 16, 24, 64


class FakePooling:
    """A device whose vectors are a token's id and 1: a sum counts the tokens. fail_at: a step that raises."""

    def __init__(self, kind: PoolingKind, fail_at: int | None = None) -> None:
        self.kind, self.plans, self.fail_at, self.spoiled = kind, list[StepPlan](), fail_at, set[int]()

    def forward(self, plan: StepPlan) -> StepPlan:
        self.plans.append(plan)
        if len(self.plans) == self.fail_at:
            raise RuntimeError("the device is gone")
        return plan

    def sample(self, handle: StepPlan, masks: StepMasks) -> StepPlan:
        return handle

    def fetch(self, handle: StepPlan) -> StepResult:
        parts = []
        for chunk in handle.chunks:
            vectors = np.stack([chunk.token_ids, np.ones_like(chunk.token_ids)], 1).astype(np.float32)
            part = {"mean": vectors.sum(0), "last": vectors[-1], "cls": vectors[0], "all": vectors}[self.kind]
            parts.append(part * np.nan if chunk.request_id in self.spoiled else part)
        return StepResult(None, (), (), pooled=tuple(parts))

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pooling:
    """An engine that pools on a fake device, and the outputs of its requests."""

    def __init__(self, kind: PoolingKind, *, num_pages: int | None = 40, rows: int = 4, **device: Any) -> None:
        """num_pages: of the cache; None: an encoder, which has none and takes every text whole."""
        sizes = () if num_pages is None else (GroupSize(num_pages=num_pages),)
        self.cache = CacheManager(sizes, page_size=PAGE)
        self.device, self.spec = FakePooling(kind, **device), PoolingSpec(kind=kind)
        limits: dict[str, Any] = {"max_num_seqs": rows, "max_pages_per_row": LONGEST // PAGE, "vocab_size": 1000}
        chunk, budget = (CHUNK, BUDGET) if sizes else (LONGEST, LONGEST)
        limits |= {"max_num_batched_tokens": budget, "max_chunk_tokens": chunk, "max_logprobs": 1}
        self.stats = Stats(LONGEST)
        scheduler = Scheduler(self.cache, self.stats, splits_prompts=bool(sizes), **limits)
        self.engine = Engine(scheduler, self.device, overlap=True)
        self.outputs: dict[int, TokenOutput] = {}
        self.prompts: dict[int, tuple[int, ...]] = {}

    def add(self, request_id: int, prompt: tuple[int, ...], *, priority: int = 0, **fields: Any) -> None:
        self.prompts[request_id] = prompt
        params = SamplingParams(max_tokens=0, echo_only=True, priority=priority)
        request = Request(request_id, prompt, params, 0, len(prompt), pooling=self.spec)
        self.engine.add(replace(request, **fields))

    def step(self) -> None:
        for output in self.engine.step():
            assert output.request_id not in self.outputs, "there is one output"
            self.outputs[output.request_id] = output
        self.engine.audit()

    def run(self) -> None:
        while self.engine.has_work:
            self.step()
        self.engine.audit_leftovers()

    def expect(self, request_id: int) -> Any:
        ids = np.array(self.prompts[request_id], np.float32)
        vectors = np.stack([ids, np.ones_like(ids)], 1)
        kinds = {"mean": vectors.mean(0), "last": vectors[-1], "cls": vectors[0], "all": vectors}
        return kinds[self.device.kind]

    def check(self) -> None:
        assert self.outputs.keys() == self.prompts.keys()
        for request_id, output in self.outputs.items():
            assert output.finish_reason is FinishReason.STOP
            np.testing.assert_allclose(output.pooled, self.expect(request_id), rtol=1e-6)


def random_prompts(num: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(0, 500, rng.integers(1, LONGEST)).tolist()) for _ in range(num)]


@pytest.mark.parametrize("kind", ["last", "mean", "cls", "all"])
@pytest.mark.parametrize("num_pages", [40, 18, None])
def test_what_is_pooled_in_chunks_is_that_of_the_whole(kind: PoolingKind, num_pages: int | None) -> None:
    pooling = Pooling(kind, num_pages=num_pages)
    for request_id, prompt in enumerate(random_prompts(30), 1):
        pooling.add(request_id, prompt)
        pooling.step()
    pooling.run()
    pooling.check()


@pytest.mark.parametrize("kind", ["last", "mean", "cls", "all"])
def test_a_preempted_request_is_pooled_from_its_beginning(kind: PoolingKind) -> None:
    pooling = Pooling(kind, num_pages=18, rows=2)
    for request_id, prompt in enumerate(random_prompts(20), 1):
        pooling.add(request_id, prompt, priority=-request_id)
        pooling.step()
    pooling.run()
    pooling.check()
    assert pooling.engine.stats().counters["num_preemptions"]


@pytest.mark.parametrize("num_pages", [40, 18, None])
def test_every_pooled_text_is_counted_once(num_pages: int | None) -> None:
    pooling = Pooling("last", num_pages=num_pages)
    prompts = random_prompts(20)
    for request_id, prompt in enumerate(prompts, 1):
        pooling.add(request_id, prompt)
    pooling.run()
    stats = pooling.engine.stats()
    assert (stats.finished["stop"], stats.counters["prompt_tokens"]) == (20, sum(map(len, prompts)))
    assert stats.counters["generation_tokens"] == 0
    for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds", "request_prompt_tokens"):
        assert sum(stats.histograms[name].counts) == 20
    assert not sum(stats.histograms["request_params_max_tokens"].counts)


def test_an_encoder_s_texts_are_never_cut() -> None:
    pooling = Pooling("mean", num_pages=None)
    for request_id, prompt in enumerate(random_prompts(30), 1):
        pooling.add(request_id, prompt)
    pooling.run()
    pooling.check()
    chunks = [chunk for plan in pooling.device.plans for chunk in plan.chunks]
    assert sorted(len(chunk.token_ids) for chunk in chunks) == sorted(map(len, pooling.prompts.values()))
    assert max(plan.num_tokens for plan in pooling.device.plans) <= LONGEST


def test_only_the_last_token_s_vector_lets_a_prefix_come_from_the_cache() -> None:
    for kind, expected in (("last", 32), ("mean", 0), ("cls", 0), ("all", 0)):
        pooling = Pooling(kind)
        for request_id in (1, 2):
            pooling.add(request_id, tuple(range(36)))
            pooling.run()
        pooling.check()
        assert pooling.outputs[2].num_cached_tokens == expected, kind


def test_an_aborted_request_leaves_nothing() -> None:
    pooling = Pooling("mean")
    pooling.add(1, tuple(range(60)))
    pooling.add(2, tuple(range(30)))
    pooling.step()
    pooling.engine.finish(1)
    del pooling.prompts[1]
    pooling.run()
    pooling.check()


def test_callers_are_served_in_turn() -> None:
    pooling = Pooling("mean", num_pages=None, rows=1)
    for request_id in range(1, 9):
        pooling.add(request_id, (request_id,) * 8, caller="many")
    pooling.add(9, (9,), caller="one")
    pooling.run()
    assert list(pooling.outputs).index(9) <= 2


def test_a_vector_that_is_not_finite_ends_its_request_alone() -> None:
    pooling = Pooling("last")
    pooling.device.spoiled.add(2)
    for request_id in (1, 2, 3):
        pooling.add(request_id, (request_id, 5))
    pooling.run()
    assert pooling.outputs.pop(2).finish_reason is FinishReason.ERROR
    del pooling.prompts[2]
    pooling.check()


def test_a_step_that_fails_is_computed_again() -> None:
    pooling = Pooling("mean", fail_at=3)
    for request_id, prompt in enumerate(random_prompts(6), 1):
        pooling.add(request_id, prompt)
    pooling.run()
    pooling.check()
