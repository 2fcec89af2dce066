"""Clients that leave at every phase of a request: nothing of them is left, and others get their tokens."""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import FEW_PAGES, SMALL, Resources, Served, Start
from scripts.reliability_checks.wire import chunks, json_request, read_head

NUM_CLIENTS = 10_000
NUM_TOGETHER = 50
LINGER_NONE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

Phase = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[object]]


def _request(rng: random.Random, **fields: object) -> bytes:
    """Return a completion that takes a while, of a prompt that is often another one."""
    prompt = [3 + rng.randrange(200) for _ in range(rng.choice((3, 40, 300)))]
    return json_request(COMPLETIONS, **{"prompt": prompt, "max_tokens": 150, "ignore_eos": True, **fields})


async def _in_the_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    data = _request(rng)
    writer.write(data[: rng.randrange(data.index(b"\r\n\r\n"))])


async def _in_the_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    data = _request(rng)
    writer.write(data[: rng.randrange(data.index(b"\r\n\r\n") + 4, len(data))])


async def _at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(_request(rng, stream=rng.random() < 0.5))


async def _soon(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(_request(rng, stream=rng.random() < 0.5, n=rng.choice((1, 1, 3))))
    await writer.drain()
    await asyncio.sleep(rng.random() * 0.2)  # waiting, in its prompt, or at its tokens


async def _while_rendered(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    messages = [{"role": "user", "content": "a few words " * 50}] * 40
    writer.write(json_request(CHAT, messages=messages, max_tokens=100))
    await writer.drain()
    await asyncio.sleep(rng.random() * 0.02)


async def _while_compiled(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    pattern = f"(a|b{rng.randrange(10**9)}){{1,{rng.randrange(2, 200)}}}"
    constraint = {"structured_outputs": {"regex": pattern}, "max_tokens": 100}
    writer.write(json_request(CHAT, messages=[{"role": "user", "content": "a"}], **constraint))
    await writer.drain()
    await asyncio.sleep(rng.random() * 0.05)


async def _after_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(_request(rng, stream=True))
    status, _ = await read_head(reader)
    left = rng.choice((0, 1, 2, 10, 60)) if status == 200 else 0
    async for _ in chunks(reader):
        if (left := left - 1) < 0:
            break


async def _after_the_last(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(_request(rng, stream=True, max_tokens=rng.randrange(1, 20)))
    await read_head(reader)
    async for event in chunks(reader):
        if b"[DONE]" in event:
            break


async def _with_more_behind(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(_request(rng, stream=rng.random() < 0.5) + rng.choice((b"x", b"GET / HTTP/1.1\r\n", b"\0" * 3000)))
    await writer.drain()
    await asyncio.sleep(rng.random() * 0.1)


async def _without_reading(_: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(_request(rng, stream=True, logprobs=5))
    await writer.drain()
    await asyncio.sleep(rng.random() * 0.3)


PHASES: dict[str, Phase] = {
    "in the head": _in_the_head,
    "in the body": _in_the_body,
    "at once": _at_once,
    "soon": _soon,
    "while rendered": _while_rendered,
    "while compiled": _while_compiled,
    "after events": _after_events,
    "after the last": _after_the_last,
    "with more behind": _with_more_behind,
    "without reading": _without_reading,
}


async def leave(port: int, rng: random.Random, counts: Counter[str]) -> None:
    """Send part of a request or a whole one, leave at a random phase, and count which one it was."""
    name = rng.choice(list(PHASES))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    how = rng.choice(("close", "reset", "half"))
    try:
        await PHASES[name](reader, writer, rng)
        if how == "half" and writer.can_write_eof():
            writer.write_eof()
            await asyncio.sleep(rng.random() * 0.05)
        if how == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    except (ConnectionError, asyncio.IncompleteReadError):
        name += ", closed by the server"
    finally:
        writer.transport.abort() if how == "reset" else writer.close()
    counts[name] += 1


async def _wave(port: int, rngs: list[random.Random], counts: Counter[str]) -> None:
    await asyncio.gather(*(leave(port, rng, counts) for rng in rngs))


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Let NUM_CLIENTS × share clients leave, in waves of NUM_TOGETHER; after each the server is idle soon."""
    outcome, counts, idle_s, started = Outcome("disconnects"), Counter[str](), list[float](), time.monotonic()
    total = max(NUM_TOGETHER, round(NUM_CLIENTS * share))
    with Start(model, folder, (*SMALL, *FEW_PAGES)) as served:
        served.wait_ready()
        expected, before = served.reference(), served.resources()
        for first in range(0, total, NUM_TOGETHER):
            rngs = [random.Random(f"{seed}:{first + number}") for number in range(NUM_TOGETHER)]
            asyncio.run(_wave(served.port, rngs, counts))
            seconds, busy = served.wait_idle()
            idle_s.append(seconds)
            outcome.expect(not busy, f"30 s after clients {first} to {first + NUM_TOGETHER - 1} left: {busy}")
            outcome.expect(served.reference() == expected, f"other tokens after client {first + NUM_TOGETHER - 1}")
        after = _settle(served, before.num_files + 8)
        aborted = served.metric(r'jaxserve_requests_total{.*outcome="aborted".*}')
    outcome.expect(after.num_files <= before.num_files + 8, f"descriptors went from {before} to {after}")
    outcome.expect(aborted > 0, "no request was aborted: the clients never got that far")
    outcome.add_times("idle after a wave left", idle_s)
    outcome.figures |= {
        "clients": total,
        "seed": seed,
        "left": dict(sorted(counts.items())),
        "aborted in the engine": round(aborted),
        "seconds": round(time.monotonic() - started),
        "memory, MiB": f"{before.rss_bytes >> 20} → {after.rss_bytes >> 20}",
        "descriptors": f"{before.num_files} → {after.num_files}",
    }
    return outcome


def _settle(served: Served, num_files: int) -> Resources:
    """Wait until the descriptors of closed connections are back, 10 s at most, and return what the process holds."""
    started = time.monotonic()
    while (now := served.resources()).num_files > num_files and time.monotonic() - started < 10:
        time.sleep(0.1)
    return now
