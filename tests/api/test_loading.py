"""All replicas of a model take the same requests, and a start fails where one of them cannot."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxserve import loading
from jaxserve.cache.sizing import GroupNeeds, choose_cache_size
from jaxserve.config import MIB, EngineConfig
from jaxserve.errors import OutOfMemory
from jaxserve.loading import load_engines
from jaxserve.parallel.placement import MemoryFacts

TOKEN_BYTES = 1024


@pytest.fixture
def closed() -> list[MemoryFacts]:
    """The devices of the engines that were closed."""
    return []


@pytest.fixture
def load(monkeypatch, closed):
    """Loads replicas on devices with so many MiB, and returns their configurations."""

    def build(config, _, on_path, on_checked, memory, publisher):
        size = choose_cache_size(
            memory=memory,
            groups=[GroupNeeds(page_bytes=32 * TOKEN_BYTES)],
            page_size=32,
            model_max_len=100_000,
            num_rows=2,
            step_tokens=64,
            max_model_len=config.max_model_len,
        )
        on_path(Path("model"))
        config = replace(config, max_model_len=size.max_model_len, block_size=config.block_size or 32)
        on_checked(SimpleNamespace(config=config, params={}))
        return SimpleNamespace(config=config, engine=SimpleNamespace(close=lambda: closed.append(memory)))

    def load(*sizes: int, **settings: Any) -> list[EngineConfig]:
        devices = [MemoryFacts(platform="gpu", total_bytes=size * MIB, free_bytes=size * MIB) for size in sizes]
        monkeypatch.setattr(loading, "choose_placements", lambda _: devices)
        engines, _, _ = load_engines(EngineConfig(**settings))
        return [engine.config for engine in engines]

    text: Any = SimpleNamespace(close=lambda: None, output_planner=SimpleNamespace(trackers=None))
    monkeypatch.setattr(loading, "build", build)
    monkeypatch.setattr(loading, "_load_tokenizer", lambda _: None)
    monkeypatch.setattr(loading.TextComponents, "from_model", lambda *_: text)
    return load


@pytest.mark.parametrize("max_model_len", [None, -1, 5000])
def test_all_replicas_take_requests_as_long_as_the_first(load, max_model_len):
    configs = load(10, 11, 200, max_model_len=max_model_len)
    assert len({(config.max_model_len, config.block_size) for config in configs}) == 1
    assert configs[0].max_model_len in (5000, 9376)


@pytest.mark.parametrize("max_model_len", [None, -1])
def test_a_later_replica_that_holds_less_ends_the_start_and_says_what_helps(load, closed, max_model_len):
    with pytest.raises(OutOfMemory, match=r"Replica 1 must .* as the first, .* Try --max-model-len 8416, the largest"):
        load(10, 9, max_model_len=max_model_len)
    assert len(closed) == 1
    configs = load(10, 9, max_model_len=8416)
    assert [config.max_model_len for config in configs] == [8416, 8416]


def test_what_the_first_replica_lacks_is_said_as_without_replicas(load):
    with pytest.raises(OutOfMemory, match=r"^One request of max_model_len"):
        load(1, 10)
