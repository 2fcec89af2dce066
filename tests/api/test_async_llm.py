"""AsyncLLM: streams, aborts, the queue."""

import asyncio
import itertools

import jax
import pytest

from jaxserve import AsyncLLM, EngineConfig, EngineStopped, Overloaded, SamplingParams
from tests.api.conftest import SETTINGS, idle, until

LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=10)


async def collect(llm, prompt, params):
    return [delta async for delta in llm.generate(prompt, params)]


async def test_two_streams_interleave(async_llm):
    order = []

    async def read(name, prompt):
        async for _ in async_llm.generate(prompt, LONG):
            order.append(name)

    await asyncio.gather(read("a", [1, 2, 3]), read("b", [4, 5, 6]))
    switches = sum(one != other for one, other in itertools.pairwise(order))
    assert switches > 50


async def test_closing_a_stream_frees_its_pages(async_llm):
    stream = async_llm.generate([1, 2, 3], LONG)
    await anext(stream)
    await stream.aclose()
    assert idle(async_llm)


async def test_cancelling_a_reader_aborts_all_its_choices(async_llm):
    params = SamplingParams(temperature=1, max_tokens=200, ignore_eos=True, n=4)
    reader = asyncio.ensure_future(collect(async_llm, [1, 2, 3], params))
    async for _ in async_llm.generate([7, 8], SHORT):
        pass
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert idle(async_llm)


async def test_a_stream_that_nobody_starts_holds_nothing(async_llm):
    stream = async_llm.generate([1, 2, 3], LONG)
    await stream.aclose()
    assert async_llm.num_unfinished == 0


async def test_each_choice_ends_once(async_llm):
    deltas = await collect(async_llm, [1, 2, 3], SamplingParams(temperature=1, seed=5, max_tokens=9, n=3))
    ends = [delta.index for delta in deltas if delta.finish_reason is not None]
    assert sorted(ends) == [0, 1, 2]
    for index in range(3):
        assert next(d for d in reversed(deltas) if d.index == index).finish_reason is not None


async def test_a_full_queue_refuses_before_it_looks_at_the_prompt(async_llm):
    readers = [asyncio.ensure_future(collect(async_llm, [i], LONG)) for i in range(1, 65)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="64"):
        async_llm.admit()
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert idle(async_llm)
    async_llm.admit()
    assert until(lambda: async_llm.stats().rejected["max_num_queued_reqs"] >= 1)


async def test_text_is_rendered_and_encoded_beside_the_loop(async_llm):
    prompt = await async_llm.render_chat([{"role": "user", "content": "hi"}])
    assert prompt.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert async_llm.decode(prompt.token_ids) == prompt.text
    assert await async_llm.encode("hi", add_special_tokens=False) == list(b"hi")


async def test_a_template_of_one_s_own_is_rendered_by_a_helper(async_llm, monkeypatch):
    messages, own = [{"role": "user", "content": "hi"}], "<{{ messages[0].content }}>"
    assert (await async_llm.render_chat(messages, chat_template=own)).text == "<hi>"
    assert async_llm.stats().counters["helper_restarts"] == 0
    monkeypatch.setattr("jaxserve.async_llm.MAX_REQUEST_TEMPLATES", 0)
    with pytest.raises(Overloaded, match="chat templates"):
        await async_llm.render_chat(messages, chat_template=own)
    assert (await async_llm.render_chat(messages)).text.endswith("assistant\n")


async def test_closing_tells_who_is_left_and_frees_the_device(tiny_path):
    llm = AsyncLLM(EngineConfig(model=tiny_path, **SETTINGS))
    reader = asyncio.ensure_future(collect(llm, [2], LONG))
    async for _ in llm.generate([1], SHORT):
        pass
    executor = llm._client._loaded.engine.runner.executor
    await llm.close()
    with pytest.raises(EngineStopped):
        await reader
    assert not llm.is_healthy
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((executor.weights, executor.state)))
    with pytest.raises(EngineStopped):
        llm.admit()
