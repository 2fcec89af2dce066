"""The two APIs on one tiny model each, opened once."""

import time
from contextlib import aclosing

import pytest

from jaxserve import LLM, AsyncLLM, EngineConfig
from tests.models.tiny import write

SETTINGS = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 120}


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return str(write(tmp_path_factory.mktemp("api"), "llama", seed=3))


@pytest.fixture(scope="session")
def llm(tiny_path):
    with LLM(tiny_path, **SETTINGS) as llm:
        yield llm


@pytest.fixture(scope="session")
def loaded_async_llm(tiny_path):
    llm = AsyncLLM(EngineConfig(model=tiny_path, max_num_queued_reqs=64, **SETTINGS))
    yield llm
    llm._client.close()


@pytest.fixture
def async_llm(loaded_async_llm):
    yield loaded_async_llm
    assert loaded_async_llm.num_unfinished == 0


def until(holds) -> bool:
    """Asks again until it holds; the engine's thread needs a moment for what it has been told."""
    deadline = time.monotonic() + 30
    while not (held := holds()) and time.monotonic() < deadline:
        pass
    return held


def idle(llm) -> bool:
    """Whether the engine comes to rest with nobody holding a page."""

    def rests() -> bool:
        stats = llm.stats()
        return not (stats.pages_active or stats.num_requests_running or stats.num_requests_waiting)

    return until(rests)


async def generate(llm, prompt, params, output=None, **how):
    """Yield the deltas of a request that is prepared and not admitted."""
    ready = await llm.prepare(prompt, params, output, **how)
    async with aclosing(llm.generate(ready)) as deltas:
        async for delta in deltas:
            yield delta
