"""Whatever the host does for a request fails once, at its first call, its second, and so on, until a run has no fault.

The scheme is SQLite's (https://www.sqlite.org/testing.html, anomaly testing). A run answers right or with an error, and
after each the server gives another request its own tokens and keeps nothing.
"""

import asyncio
import http.client
import importlib
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jaxserve import AsyncLLM, EngineConfig
from tests.server.live_server import LiveServer, serve_live

POINTS: dict[str, type[Exception]] = {
    "jaxserve.cache.pool:PagePool.allocate": RuntimeError,
    "jaxserve.cache.prefix:PrefixIndex.register": RuntimeError,
    "jaxserve.engine.scheduler:Scheduler.plan": RuntimeError,
    "jaxserve.engine.runner:Runner.forward": RuntimeError,
    "jaxserve.engine.runner:Runner.sample": RuntimeError,
    "jaxserve.engine.runner:Runner.fetch": RuntimeError,
    "jaxserve.engine.scheduler:Scheduler.make_masks": RuntimeError,
    "jaxserve.engine.sequence:Sequence.make_mask": RuntimeError,
    "jaxserve.engine.output_processor:OutputProcessor.apply": RuntimeError,
    "jaxserve.engine.output_processor:OutputProcessor._apply_tokens": RuntimeError,
    "jaxserve.engine.output_processor:make_position_logprobs": RuntimeError,
    "jaxserve.structured.guide:Guide.mask": RuntimeError,
    "jaxserve.structured.guide:Guide.accept": RuntimeError,
    "jaxserve.text.text_stream:TextStream.push": MemoryError,
    "jaxserve.output_stream:OutputStream.push": RuntimeError,
    "server.generation:Generation._put": RuntimeError,
    "server.completion_reply:CompletionWriter.opening": RuntimeError,
    "server.completion_reply:CompletionWriter.delta": RuntimeError,
    "server.completion_reply:CompletionWriter.closing": RuntimeError,
    "asyncio:StreamWriter.write": OSError,
    "asyncio:StreamWriter.drain": ConnectionResetError,
}
"""What the host does for a request, from its pages to its socket, and the errors that it may raise there."""

REQUEST = {
    **{"prompt": [3 + at % 90 for at in range(40)], "max_tokens": 5, "n": 2, "temperature": 1.0, "seed": 3},
    **{"logprobs": 1, "stream": True, "structured_outputs": {"regex": "[a-f0-9 ]{3,40}"}},
}
PROBE = {"prompt": [5, 6, 7, 8, 9] * 5, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
FAILED, CUT = "failed", "cut"
HOURS = itertools.count(1)


def complete(url: str, body: dict[str, Any]) -> Any:
    """Return the texts of the choices; FAILED if the reply is an error or ends with one, CUT if it ends before that."""
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            raw = response.read()
    except urllib.error.HTTPError:
        return FAILED
    except (OSError, http.client.HTTPException):
        return CUT
    if not body.get("stream"):
        return [choice["text"] for choice in json.loads(raw)["choices"]]
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: {")]
    if not raw.endswith(b"data: [DONE]\n\n"):
        return CUT
    if any("error" in event for event in events):
        return FAILED
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def fail_call(monkeypatch: pytest.MonkeyPatch, point: str, number: int) -> Callable[[], bool]:
    """Let the number-th call raise; return what tells whether it was made."""
    module, _, names = point.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original, calls, error = getattr(owner, name), itertools.count(1), POINTS[point]
    made: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        if next(calls) == number:
            made.append(number)
            raise error("a fault on purpose")
        return original(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return lambda: bool(made)


def read_clock(hours: int) -> float:
    """Return the time of the scheduler's clock, so many hours later."""
    return time.monotonic() + 3600 * hours


@pytest.fixture(scope="module")
def own_llm(tiny_model: Path) -> Iterator[AsyncLLM]:
    llm = AsyncLLM(
        EngineConfig(
            model=str(tiny_model),
            max_model_len=256,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            num_gpu_blocks_override=120,
            scheduling_policy="priority",
            batch_invariant=True,
        )
    )
    yield llm
    llm._client.close()


@pytest.fixture
async def live(own_llm: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveServer]:
    async def stay_open() -> None:
        pass

    monkeypatch.setattr(own_llm, "close", stay_open)
    async with serve_live(own_llm) as server:  # type: ignore[arg-type]
        yield server


async def wait_until_idle(live: LiveServer) -> None:
    """Wait until nothing is left of any request, and check that pages and rows add up."""
    client = live.llm._client  # type: ignore[attr-defined]
    engine = client.replicas[0].loaded.engine
    async with asyncio.timeout(30):
        while live.connections or len(live.slots) or client.num_unfinished or engine.has_work:
            await asyncio.sleep(0)
        while engine.scheduler.cache.num_active:
            await asyncio.sleep(0)
    engine.audit()
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting, client._queue.num_taken) == (0, 0, 0)
    assert not live.llm._running  # type: ignore[attr-defined]


@pytest.mark.parametrize("point", POINTS)
async def test_each_call_may_fail_and_the_server_goes_on(
    point: str, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await asyncio.to_thread(complete, live.url, REQUEST)
    reference = await asyncio.to_thread(complete, live.url, PROBE)
    assert len(expected) == 2 and all(reference)
    table = live.llm._client.replicas[0].loaded.engine.scheduler._requests  # type: ignore[attr-defined]
    outcomes = []
    for number in itertools.count(1):
        # An hour later: faults that are this rare are not those of a broken device.
        table.clock = partial(read_clock, next(HOURS))
        with monkeypatch.context() as patch:
            was_made = fail_call(patch, point, number)
            body = REQUEST | {"cache_salt": f"{point} {number}"}  # nothing is cached for it
            outcomes.append(await asyncio.to_thread(complete, live.url, body))
            await wait_until_idle(live)
        assert await asyncio.to_thread(complete, live.url, PROBE) == reference, number
        await wait_until_idle(live)
        if not was_made():
            break
    assert outcomes[-1] == expected
    assert len(outcomes) > 1, "the point was never passed"
    allowed = (expected, CUT) if point.startswith("asyncio:") else (expected, FAILED)
    assert all(outcome in allowed for outcome in outcomes), outcomes
    assert live.llm.is_healthy
