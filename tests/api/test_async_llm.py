"""AsyncLLM: streams, aborts, the queue."""

import asyncio
import itertools
import queue
import random
import threading
from dataclasses import replace

import jax
import pytest

from jaxserve import (
    AsyncLLM,
    ChatPrompt,
    EngineConfig,
    EngineStopped,
    GenerationFailed,
    InvalidParameter,
    Overloaded,
    SamplingParams,
)
from jaxserve.outputs import TokenOutput
from tests.api.conftest import SETTINGS, generate, idle

LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=10)


async def collect(llm, prompt, params):
    return [delta async for delta in generate(llm, prompt, params)]


async def test_two_streams_interleave(async_llm):
    order = []

    async def read(name, prompt):
        async for _ in generate(async_llm, prompt, LONG):
            order.append(name)

    await asyncio.gather(read("a", [1, 2, 3]), read("b", [4, 5, 6]))
    switches = sum(one != other for one, other in itertools.pairwise(order))
    assert switches > 50


async def test_closing_a_stream_frees_its_pages(async_llm):
    stream = generate(async_llm, [1, 2, 3], LONG)
    await anext(stream)
    await stream.aclose()
    assert idle(async_llm)


async def test_cancelling_a_reader_aborts_all_its_choices(async_llm):
    params = SamplingParams(temperature=1, max_tokens=200, ignore_eos=True, n=4)
    reader = asyncio.ensure_future(collect(async_llm, [1, 2, 3], params))
    async for _ in generate(async_llm, [7, 8], SHORT):
        pass
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert idle(async_llm)


async def test_of_many_choices_some_run_at_a_time_and_each_has_the_tokens_of_its_seed(async_llm):
    """With 8 rows 16 choices are made at first, and each further one when another has ended."""
    params = SamplingParams(temperature=1.0, seed=40, max_tokens=6, n=60, stop=["5"])
    token_ids = [[] for _ in range(60)]
    async for delta in generate(async_llm, [1, 2, 3], params):
        token_ids[delta.index] += delta.token_ids
        assert len(async_llm._running) <= 16 and async_llm.num_unfinished <= 16
    assert not async_llm._running and idle(async_llm)
    for index in (0, 15, 16, 59):
        alone = await collect(async_llm, [1, 2, 3], replace(params, seed=40 + index, n=1))
        assert token_ids[index] == [token_id for delta in alone for token_id in delta.token_ids]


async def test_choices_that_are_not_made_yet_are_aborted_with_the_others(async_llm):
    before = async_llm.stats().finished["length"]
    stream = generate(async_llm, [1, 2, 3], replace(LONG, temperature=1.0, n=60, max_tokens=90))
    async for delta in stream:
        if delta.index == 0 and delta.finish_reason is not None:
            break
    await stream.aclose()
    assert not async_llm._running and idle(async_llm)
    assert before < async_llm.stats().finished["length"] < before + 60
    assert not async_llm._client.replicas[0]._thread._groups


async def test_seeds_of_choices_are_drawn_in_one_order_whenever_choices_are_made(async_llm, monkeypatch):
    monkeypatch.setattr(async_llm._client, "_rng", random.Random(7))
    ready = await async_llm.prepare([1], SamplingParams(n=3, temperature=1.0))
    first, second = async_llm._client._make_requests(ready), async_llm._client._make_requests(ready)
    drawn = [next(first), next(second), *first, *second]
    by_request = [request.seed for request in (drawn[0], *drawn[2:4], drawn[1], *drawn[4:])]
    assert by_request == [seeds.getrandbits(64) - 2**63 for seeds in [random.Random(7)] for _ in range(6)]


async def test_a_stream_that_nobody_starts_holds_nothing(async_llm):
    stream = generate(async_llm, [1, 2, 3], LONG)
    await stream.aclose()
    assert async_llm.num_unfinished == 0


async def test_each_choice_ends_once(async_llm):
    deltas = await collect(async_llm, [1, 2, 3], SamplingParams(temperature=1, seed=5, max_tokens=9, n=3))
    ends = [delta.index for delta in deltas if delta.finish_reason is not None]
    assert sorted(ends) == [0, 1, 2]
    for index in range(3):
        assert next(d for d in reversed(deltas) if d.index == index).finish_reason is not None


async def test_a_full_queue_refuses_before_it_looks_at_the_prompt(async_llm):
    slots = [async_llm.admit(16) for _ in range(4)]
    with pytest.raises(Overloaded, match="64 of 64"):
        async_llm.admit()
    assert async_llm.stats().rejected == {"max_num_queued_reqs": 1, "max_num_queued_tokens": 0}
    for slot in slots:
        slot.release()
        slot.release()
    with pytest.raises(InvalidParameter, match="at most 64"), async_llm.admit(64):
        async_llm.admit(65)


async def test_a_request_that_is_not_admitted_takes_its_places_when_it_starts(async_llm):
    with async_llm.admit(63):
        ready = await async_llm.prepare([1, 2], replace(SHORT, temperature=1.0, n=2))
        with pytest.raises(Overloaded):
            await anext(async_llm.generate(ready))
        assert len([delta async for delta in generate(async_llm, [1, 2], SHORT)]) > 1
    with async_llm.admit(64):
        pass


async def test_an_admitted_request_keeps_its_places_until_they_are_released(async_llm):
    with async_llm.admit(64) as slot:
        ready = await async_llm.prepare([1, 2], SHORT, None, slot)
        assert [delta async for delta in async_llm.generate(ready)][-1].finish_reason is not None
        with pytest.raises(Overloaded):
            async_llm.admit()


async def test_everything_is_checked_before_the_model_runs(async_llm):
    for wrong, param in (
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"params": SamplingParams(max_tokens=1000)}, "max_tokens"),
        ({"params": SamplingParams(logprobs=21)}, "logprobs"),
        ({"params": SamplingParams(structured_outputs={"regex": "("})}, "structured_outputs"),
        ({"params": SamplingParams(thinking_token_budget=3)}, "thinking_token_budget"),
        ({"data_parallel_rank": 1}, None),
    ):
        with pytest.raises(InvalidParameter) as caught:
            await async_llm.prepare(**{"prompt": [1, 2], "params": SHORT, **wrong})
        assert caught.value.param == param
    assert async_llm.num_unfinished == 0


async def test_text_is_rendered_and_encoded_beside_the_loop(async_llm):
    prompt = await async_llm.render_chat(ChatPrompt(messages=[{"role": "user", "content": "hi"}]))
    assert prompt.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert async_llm.decode(prompt.token_ids) == prompt.text
    assert await async_llm.encode("hi", add_special_tokens=False) == list(b"hi")


async def test_a_template_of_one_s_own_is_rendered_by_a_helper(async_llm, monkeypatch):
    messages = [{"role": "user", "content": "hi"}]
    own = ChatPrompt(messages=messages, chat_template="<{{ messages[0].content }}>")
    assert (await async_llm.render_chat(own)).text == "<hi>"
    assert async_llm.stats().counters["worker_restarts"] == 0
    monkeypatch.setattr("jaxserve.async_llm.MAX_REQUEST_TEMPLATES", 0)
    with pytest.raises(Overloaded, match="chat templates"):
        await async_llm.prepare(own, SHORT)
    assert (await async_llm.render_chat(ChatPrompt(messages=messages))).text.endswith("assistant\n")


class ClosingLoop:
    """A loop that is open when it is asked, and closed when it is called."""

    def is_closed(self):
        return False

    def call_soon_threadsafe(self, *_):
        raise RuntimeError("Event loop is closed")


async def test_a_loop_that_closes_while_outputs_arrive_does_not_end_the_engine(async_llm, monkeypatch):
    monkeypatch.setattr(async_llm, "_loop", ClosingLoop())
    async_llm._on_outputs([TokenOutput(1)])
    assert await collect(async_llm, [1, 2, 3], SHORT)


class HeldGrammars:
    """In place of the compiler: notes whose grammar it is at, and holds each until it is let go."""

    def __init__(self, llm, monkeypatch):
        self.begun, self.let_go = queue.SimpleQueue(), threading.Semaphore(0)
        monkeypatch.setattr(llm._client.text.output_planner._grammars, "compile", self.compile)

    def compile(self, expr, param):
        self.begun.put(expr.regex)
        self.let_go.acquire(timeout=30)
        return None

    async def next_begun(self):
        return await asyncio.to_thread(self.begun.get, timeout=30)


def prepare_regex(llm, regex, slot):
    return asyncio.ensure_future(llm.prepare([1], replace(SHORT, structured_outputs={"regex": regex}), None, slot))


async def test_a_grammar_waits_for_no_more_than_the_two_that_compile(async_llm, monkeypatch):
    grammars = HeldGrammars(async_llm, monkeypatch)
    with async_llm.admit(6, "hostile") as hostile, async_llm.admit(1, "benign") as benign:
        tasks = [prepare_regex(async_llm, f"hostile{i}", hostile) for i in range(6)]
        assert {await grammars.next_begun(), await grammars.next_begun()} == {"hostile0", "hostile1"}
        tasks.append(prepare_regex(async_llm, "benign", benign))
        await asyncio.sleep(0)
        grammars.let_go.release()
        grammars.let_go.release()
        assert "benign" in {await grammars.next_begun(), await grammars.next_begun()}
        grammars.let_go.release(5)
        await asyncio.gather(*tasks)


async def test_a_grammar_that_nobody_waits_for_is_not_compiled(async_llm, monkeypatch):
    grammars = HeldGrammars(async_llm, monkeypatch)
    with async_llm.admit(4, "one") as slot:
        tasks = [prepare_regex(async_llm, regex, slot) for regex in ("a", "b", "left", "stays")]
        assert {await grammars.next_begun(), await grammars.next_begun()} == {"a", "b"}
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        grammars.let_go.release(3)
        assert await grammars.next_begun() == "stays"
        await asyncio.gather(*tasks, return_exceptions=True)
    assert grammars.begun.empty()


async def test_grammars_of_one_caller_that_wait_are_limited(async_llm, monkeypatch):
    monkeypatch.setattr("jaxserve.fair_threads.MAX_WAITING_PER_CALLER", 2)
    grammars = HeldGrammars(async_llm, monkeypatch)
    with async_llm.admit(5, "one") as slot:
        running = [prepare_regex(async_llm, regex, slot) for regex in "ab"]
        assert {await grammars.next_begun(), await grammars.next_begun()} == {"a", "b"}
        waiting = [prepare_regex(async_llm, regex, slot) for regex in "cd"]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 of your requests wait"):
            await prepare_regex(async_llm, "e", slot)
        grammars.let_go.release(4)
        await asyncio.gather(*running, *waiting)


async def test_closing_tells_who_is_left_and_frees_the_device(tiny_path):
    llm = AsyncLLM(EngineConfig(model=tiny_path, **SETTINGS))
    reader = asyncio.ensure_future(collect(llm, [2], LONG))
    async for _ in generate(llm, [1], SHORT):
        pass
    executor = llm._client.replicas[0].loaded.engine.runner.executor
    await llm.close()
    with pytest.raises(EngineStopped):
        await reader
    assert not llm.is_healthy
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((executor.weights, executor.state)))
    with pytest.raises(EngineStopped):
        llm.admit()


async def test_prompts_of_one_request_share_its_parameters(async_llm, monkeypatch):
    params = replace(SHORT, logit_bias={token: 1.0 for token in range(50)})
    monkeypatch.setattr(SamplingParams, "__post_init__", None)  # checking again would fail
    ready = await async_llm.prepare_all([[1, 2]] * 20, params)
    assert len(ready) == 20
    assert {id(one.params.logit_bias) for one in ready} == {id(params.logit_bias)}


async def test_the_work_for_a_request_that_was_given_up_ends(async_llm):
    slot = async_llm.admit(5)
    slot.release()
    with pytest.raises(GenerationFailed, match="given up"):
        await async_llm.prepare_all([[1, 2]] * 5, SHORT, None, slot)


async def test_a_paused_model_keeps_its_requests_and_goes_on_with_the_same_tokens(async_llm):
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    alone = [token for delta in await collect(async_llm, [1, 2, 3], params) for token in delta.token_ids]
    stream = generate(async_llm, [1, 2, 3], params)
    tokens = list((await anext(stream)).token_ids)
    await async_llm.pause()
    [paused] = await async_llm.inspect()
    [again] = await async_llm.inspect()
    assert paused == again and paused.is_paused and paused.num_requests == 1
    assert set(paused.invariants.values()) == {True}
    assert not await async_llm.reset_prefix_cache()
    assert await async_llm.reset_prefix_cache(reset_running_requests=True)
    await async_llm.resume()
    async for delta in stream:
        tokens += delta.token_ids
    assert tokens == alone
    assert idle(async_llm)


@pytest.mark.parametrize("kind", ["templates", "grammars"])
async def test_workers_that_cannot_be_started_again_are_the_death_of_the_engine(async_llm, kind, monkeypatch):
    assert async_llm.is_healthy and not async_llm.is_dead
    text = async_llm._client.text
    owner = text.prompts if kind == "templates" else text.output_planner._grammars._get_compiler()
    pool = owner._workers if kind == "templates" else owner._pool
    monkeypatch.setattr(pool, "_is_broken", True)
    assert async_llm.is_dead and not async_llm.is_healthy
