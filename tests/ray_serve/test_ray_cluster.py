"""Two replicas of the tiny model under a real Ray: routing, streams, a replica that is killed, and the drain.

Each test goes on with the cluster that the one before has left; starting one takes most of the time.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from server.errors import ENGINE_DEAD
from tests.end_to_end.running_server import QUICK_TO_COMPILE
from tests.models.tiny import write
from tests.sources import REPO

if find_spec("ray") is None:
    pytest.skip("Ray is not installed here: pip install 'ray[serve]'", allow_module_level=True)

CHAT, TIMEOUT_S, START_LIMIT_S = "/v1/chat/completions", 120, 120
NUM_REQUESTS, NUM_TOKENS = 24, 120
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}


@dataclass
class Cluster:
    process: "subprocess.Popen[str]"
    url: str

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S)

    def replicas(self) -> list[psutil.Process]:
        """The processes of the engines."""
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if _is_engine(child)]

    def command(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def reaches(self, word: str) -> bool:
        """Wait until the process prints a word; return whether it has, or ended before."""
        assert self.process.stdout
        return any(line.strip() == word for line in self.process.stdout)


def _is_engine(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] == ["ray::ServeReplica:jaxserve:Engine"]
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the application. The tests are skipped where Ray itself does not start.

    It gives its own processes 15 s and 30 s, which a machine that is too busy does not keep.
    """
    model = write(tmp_path_factory.mktemp("ray"), "llama", seed=3)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as directory:
        log = Path(directory, "output.txt")
        cluster = _start(model, directory, log)
        try:
            timer = threading.Timer(START_LIMIT_S, _kill, [cluster.process])
            timer.start()
            has_started = cluster.reaches("started")
            timer.cancel()
            if not has_started:
                pytest.skip(f"Ray does not start on this machine, or not in time: {log.read_text().strip()[-300:]}")
            assert cluster.reaches("ready"), log.read_text()
            yield cluster
        finally:
            _end(cluster.process)


def _start(model: Path, directory: str, log: Path) -> Cluster:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | QUIET | {"XLA_FLAGS": QUICK_TO_COMPILE, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "tests.ray_serve.cluster", str(model), str(port), directory]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env=environ, cwd=REPO, stdin=-1, stdout=-1, stderr=errors, text=True, start_new_session=True
        )
    return Cluster(process, f"http://127.0.0.1:{port}")


def _end(process: "subprocess.Popen[str]") -> None:
    """Let Ray end by itself, and kill what is left of it."""
    family = _list_family(process)
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        family = _list_family(process)
    _kill_all(family)
    process.communicate()


def _kill(process: "subprocess.Popen[str]") -> None:
    _kill_all(_list_family(process))


def _list_family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return a process and all that it has started."""
    try:
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _kill_all(family: list[psutil.Process]) -> None:
    for each in family:
        with suppress(psutil.Error):
            each.kill()


def make_body(text: str, **fields):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    return body | fields


async def ask(client: httpx.AsyncClient, text: str, **fields):
    answer = await client.post(CHAT, json=make_body(text, **fields))
    assert answer.status_code == 200, answer.text
    return answer


@dataclass
class Received:
    """What a client got of one request, and whether its stream has ended with an error."""

    text: str = ""
    error: str | None = None
    is_whole: bool = False


async def stream(client: httpx.AsyncClient, text: str, on_text=lambda: None, **fields) -> Received:
    received = Received()
    async with client.stream("POST", CHAT, json=make_body(text, stream=True, **fields)) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                received.is_whole = received.error is None
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                received.error = event["error"]["message"] if "error" in event else received.error
                received.text += "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
                on_text()
    return received


async def test_one_beginning_is_served_by_one_replica_from_its_cache(cluster):
    async with cluster.client() as client:
        for word in ("alpha ", "beta ", "gamma "):
            answers = [await ask(client, word * 30 + str(number)) for number in range(3)]
            assert len({answer.headers["x-jaxserve-replica"] for answer in answers}) == 1
            cached = [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
            assert cached[0] < 64 <= min(cached[1:])


async def test_whole_answers_and_streams_are_the_server_s(cluster):
    async with cluster.client() as client:
        whole = (await ask(client, "hello", max_tokens=20)).json()["choices"][0]["message"]["content"]
        assert await stream(client, "hello", max_tokens=20) == Received(whole, None, True)
        wrong = await client.post(CHAT, json={"messages": []})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, 400)
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/v1/models")).json()["data"]


async def test_who_leaves_ends_the_request(cluster):
    """Rows of the batch are free again long before the request would have ended: both replicas have two."""
    async with cluster.client() as client:
        for _ in range(5):
            async with client.stream("POST", CHAT, json=make_body("x", stream=True, max_tokens=400)) as answer:
                await anext(answer.aiter_lines())
        await ask(client, "y")


async def test_a_killed_replica_loses_no_request_that_had_not_begun(cluster):
    """Every request is answered in full, or had begun and ends with an error; some of both are there."""
    num_begun, enough = 0, asyncio.Event()

    def on_text() -> None:
        nonlocal num_begun
        num_begun += 1
        if num_begun >= 40:
            enough.set()

    texts = [f"{number} of many" for number in range(NUM_REQUESTS)]
    async with cluster.client() as client:
        expected = [(await ask(client, text, max_tokens=NUM_TOKENS)).json() for text in texts]
        contents = [answer["choices"][0]["message"]["content"] for answer in expected]
        streams = [
            asyncio.create_task(stream(client, text, on_text, max_tokens=NUM_TOKENS))
            for text in texts[: NUM_REQUESTS // 2]
        ]
        wholes = [asyncio.create_task(ask(client, text, max_tokens=NUM_TOKENS)) for text in texts[NUM_REQUESTS // 2 :]]
        await enough.wait()
        victim = cluster.replicas()[0]
        os.kill(victim.pid, signal.SIGKILL)
        received = await asyncio.gather(*streams)
        whole = [answer.json()["choices"][0]["message"]["content"] for answer in await asyncio.gather(*wholes)]
    assert whole == contents[NUM_REQUESTS // 2 :]
    broken = [each for each in received if not each.is_whole]
    assert all(each.error == ENGINE_DEAD for each in broken)
    assert 1 <= len(broken) <= 2  # those that the replica's batch had
    assert all(each.text == content for each, content in zip(received, contents, strict=False) if each.is_whole)


async def test_an_application_that_ends_finishes_its_requests(cluster):
    has_begun = asyncio.Event()
    async with cluster.client() as client:
        answer = asyncio.create_task(stream(client, "the last one", has_begun.set, max_tokens=300))
        await has_begun.wait()
        cluster.command("delete")
        assert (await answer).is_whole
    assert await asyncio.to_thread(cluster.reaches, "deleted")
