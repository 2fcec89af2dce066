"""After requests of every kind and with every end, no map of engine, library or server is larger than it was before."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from jaxserve import SamplingParams
from server.app import get_state
from tests.api.conftest import generate, idle, until
from tests.server.api import Api

OURS = ("jaxserve", "server")
STORES = {"PrefixIndex", "PagePool", "PrefixRouter", "Tokenizer", "Runner", "HeldTokenizer"}  # they keep on purpose
LONG = {"max_tokens": 200, "ignore_eos": True, "temperature": 0}
REQUESTS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"n": 3, "seed": 5, "stream": True},
    {"use_beam_search": True, "n": 2, "temperature": 0},
    {"structured_outputs": {"choice": ["ab", "ba"]}, "temperature": 0},
    {"logprobs": 2, "echo": True, "temperature": 0},
    {"prompt": [[3, 4], [5, 6, 7]], "seed": 1, "stop": ["a"]},
    {"logit_bias": {"10000000": 1}},
    {"prompt": "a" * 100_000},
    {"structured_outputs": {"regex": "("}},
    {"n": 1000},
)


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object of ours, or the elements of a container."""
    if isinstance(value, dict):
        yield from (("", each) for each in value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from (("", each) for each in value)
    elif type(value).__module__.startswith(OURS) and type(value).__name__ not in STORES:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*getattr(value, "__dict__", {}), *slots]
        yield from ((f"{type(value).__name__}.{name}", getattr(value, name, None)) for name in names)


def count_members(*roots: Any) -> Counter[str]:
    """Return the number of elements of all containers within reach, by class and attribute."""
    sizes: Counter[str] = Counter()
    seen, todo = set(), [("", root) for root in roots]
    while todo:
        owner, value = todo.pop()
        if isinstance(value, str | bytes | int | float | type(None)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict | list | set | deque):
            sizes[owner] += len(value)
        todo += [(name or owner, each) for name, each in members(value)]
    return sizes


async def send_all(api: Api, async_llm) -> None:
    """Send requests that finish, that are refused, that are aborted by their id, and whose readers leave."""
    for fields in REQUESTS:
        await api.post("/v1/completions", {"prompt": "ab", "max_tokens": 8, **fields})
    long = {"prompt": "abc", "request_id": "long", **LONG}
    running = [asyncio.create_task(api.post("/v1/completions", {**long, "stream": stream})) for stream in (False, True)]
    while async_llm.num_unfinished < 2:
        await asyncio.sleep(0)
    assert (await api.post("/abort_requests", {"request_ids": ["long"]})).json["aborted"] == 2
    await asyncio.gather(*running)
    stream = generate(async_llm, [1, 2, 3], SamplingParams(n=2, temperature=1, max_tokens=200, ignore_eos=True))
    await anext(stream)
    await stream.aclose()
    assert idle(async_llm)


async def test_nothing_is_left_of_requests_but_what_is_kept_on_purpose(async_llm):
    api = Api(async_llm, server_dev_mode=True)
    roots = (get_state(api.app), async_llm)
    await send_all(api, async_llm)
    before = count_members(*roots)
    for name in (
        "AsyncLLM._running",
        "Replica._unfinished",
        "Replica._waiting",
        "RequestSlots._requests",
        "AdmissionQueue._taken_by_caller",
        "FairThreads._waiting",
        "EngineThread._groups",
        "RequestTable.by_id",
        "RequestOutputs._timelines",
        "BeamManager._states",
    ):
        assert name in before, f"{name} is not within reach"
        assert before[name] == 0, name
    before["CallerTurns._next"] = 2  # its two callers, each kept or forgotten by when the last request started
    await send_all(api, async_llm)
    assert until(lambda: not count_members(*roots) - before), count_members(*roots) - before
