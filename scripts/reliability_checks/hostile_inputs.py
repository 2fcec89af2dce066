"""Generated hostile requests: each gets an answer or a closed connection, and the next harmless one its tokens.

Input k of a seed is always the same bytes: `hostile_input(seed, k)` makes a failing one again.
"""

import asyncio
import json
import random
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scripts.benchmarks.attacks import Prober
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import FEW_PAGES, SMALL, Served, Start
from scripts.reliability_checks.wire import exchange, request_bytes
from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

NUM_INPUTS = 50_000
NUM_CONNECTIONS = 8
PROBE_EVERY = 250
SLOW_S = 10.0  # those that take longer are named in the figures
IMPATIENT = ("--head-timeout-s", "1", "--body-timeout-s", "1")  # many requests never end
ALLOWED = {0, 200, 204, 400, 404, 405, 408, 411, 413, 415, 431, 501, 503, 505}
MESSAGES = [{"role": "user", "content": "a"}]
ROUTES: tuple[tuple[str, type[BaseModel], dict[str, Any]], ...] = (
    ("/v1/chat/completions", ChatRequest, {"messages": MESSAGES, "max_tokens": 2}),
    ("/v1/chat/completions/render", ChatRequest, {"messages": MESSAGES}),
    ("/v1/completions", CompletionRequest, {"prompt": "ab", "max_tokens": 2}),
    ("/v1/completions/render", CompletionRequest, {"prompt": "ab"}),
    ("/tokenize", TokenizeRequest, {"prompt": "ab"}),
    ("/detokenize", DetokenizeRequest, {"tokens": [97, 98]}),
)
SCALARS = (0, -1, 1, 2, 7, 2**31, 2**63, -(2**63) - 1, 10**40, 10**307, 1e308, -1e-308, 0.5, True, False, None)
TEXTS = (
    "",
    "a",
    "\0",
    "nan",
    "1",
    "\ud83d",
    "\u2028",
    "<|im_end|>",
    "{{ 1 }}",
    "x" * 300,
    "9" * 5000,
    "é" * 40,
    "[" * 200,
)
WORDS = (
    "type",
    "text",
    "role",
    "content",
    "user",
    "object",
    "properties",
    "items",
    "enum",
    "pattern",
    "anyOf",
    "$ref",
    "#",
)
PATTERNS = (
    "(a|b)*",
    "(a*)*b",
    "[",
    "(?=a)",
    "a{1000}",
    "\\p{L}+",
    "(((((a)))))",
    "[^\\s\\S]",
    "a{2,1}",
    "\\",
    ".*.*.*x",
)
SAFE_CHARS = string.ascii_letters + string.digits


def hostile_input(seed: int, number: int) -> bytes:
    """Return the bytes of one request."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choices((_odd_fields, _constrained, _damaged, _odd_head, _odd_chunks), (60, 15, 12, 8, 5))[0]
    return kind(rng)


def _odd_fields(rng: random.Random) -> bytes:
    path, schema, base = rng.choice(ROUTES)
    names = sorted(schema.model_fields)
    body = {**base, **{rng.choice(names): _value(rng, 3) for _ in range(rng.randint(1, 3))}}
    return request_bytes(path, _dumps(body))


def _constrained(rng: random.Random) -> bytes:
    schema: Any = _value(rng, 4, WORDS) if rng.random() < 0.5 else _schema(rng, 4)
    constraint = rng.choice(
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            {"structured_outputs": {"json": schema}},
            {"structured_outputs": {"regex": rng.choice(PATTERNS) + rng.choice(PATTERNS)}},
            {"structured_outputs": {"choice": _value(rng, 2)}},
            {
                "structured_outputs": {
                    "grammar": "root ::= " + rng.choice(("root", "[a-z", '"a" root | "b"', "x", '"\\q"'))
                }
            },
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                "tool_choice": "required",
            },
        )
    )
    return request_bytes("/v1/chat/completions", _dumps({"messages": MESSAGES, "max_tokens": 3, **constraint}))


def _damaged(rng: random.Random) -> bytes:
    path, _, base = rng.choice(ROUTES)
    data = bytearray(_dumps({**base, "stop": ["a", "ä"], "temperature": 0.5}))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = rng.choice((b"[" * 200, b"{" * 200, b"\xff\xfe", b"NaN", b"1e999", b'"a":1,"a":2,'))
            case _:
                data += data[place:]
        data = data or bytearray(b" ")
    return request_bytes(path, bytes(data))


def _odd_head(rng: random.Random) -> bytes:
    path = rng.choice(
        ("/", "/v1/models", "/health", "//v1//models", "/v1/%6dodels", "/../etc/passwd", "/" + "a" * 9000, "*")
    )
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PRI", "get", "G\0T"))
    headers = [
        rng.choice(
            (
                "Transfer-Encoding: chunked",
                "Content-Length: 5",
                "Content-Length: -1",
                "Expect: 100-continue",
                "Upgrade: h2c",
                "Content-Encoding: gzip",
                "Authorization: Bearer " + "k" * rng.choice((0, 1, 5000)),
                "X-Request-Id: " + "i" * rng.choice((0, 1, 300)),
                "Content-Type: " + rng.choice(("text/plain", "application/json; charset=utf-16", "")),
                "X: " + "y" * rng.choice((1, 40_000)),
                "bad header",
                " folded: x",
            )
        )
        for _ in range(rng.randint(0, 4))
    ]
    return request_bytes(path, _dumps({"messages": MESSAGES, "max_tokens": 1}), *headers, method=method)


def _odd_chunks(rng: random.Random) -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    sizes = [
        rng.choice((b"1", b"2", b"a", b"0", b"-1", b"ffffffffffffffff", b"1;x=y", b"z", b""))
        for _ in range(rng.randint(1, 30))
    ]
    pieces = b"".join(
        size + b"\r\n" + bytes(rng.randrange(256) for _ in range(rng.randint(0, 4))) + b"\r\n" for size in sizes
    )
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n" + b"0\r\n\r\n"


def _value(rng: random.Random, depth: int, words: tuple[str, ...] = WORDS) -> Any:
    choice = rng.randrange(8 if depth else 5)
    if choice < 3:
        return rng.choice(SCALARS)
    if choice < 5:
        return rng.choice(TEXTS) if rng.random() < 0.5 else "".join(rng.choices(SAFE_CHARS, k=rng.randint(0, 12)))
    if choice < 6:
        return [_value(rng, depth - 1, words) for _ in range(rng.randint(0, 4))]
    return {rng.choice(words): _value(rng, depth - 1, words) for _ in range(rng.randint(0, 4))}


def _schema(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.choice(("object", "array", "string", "integer", "number", "anyOf", "enum", "$ref"))
    if kind == "object" and depth:
        names = rng.sample(WORDS, rng.randint(0, 4))
        properties = {name: _schema(rng, depth - 1) for name in names}
        return {
            "type": kind,
            "properties": properties,
            "required": rng.sample([*names, "zz"], rng.randint(0, len(names))),
        }
    if kind == "array" and depth:
        return {"type": kind, "items": _schema(rng, depth - 1), "minItems": rng.choice(SCALARS), "maxItems": 3}
    if kind == "anyOf" and depth:
        return {kind: [_schema(rng, depth - 1) for _ in range(rng.randint(0, 3))]}
    if kind == "enum":
        return {kind: [_value(rng, 1) for _ in range(rng.randint(0, 3))]}
    if kind == "$ref":
        return {
            kind: rng.choice(("#", "#/$defs/a", "http://x/y", "#/properties/type")),
            "$defs": {"a": {"$ref": "#/$defs/a"}},
        }
    return (
        {"type": kind, "pattern": rng.choice(PATTERNS)}
        if kind == "string"
        else {"type": kind, "minimum": rng.choice(SCALARS)}
    )


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()  # ASCII: lone surrogates travel as escapes


async def _send(
    served: Served, seed: int, numbers: "asyncio.Queue[int]", outcome: Outcome, statuses: Counter[int]
) -> None:
    while not numbers.empty():
        number, started = numbers.get_nowait(), time.monotonic()
        try:
            status, reply = await exchange(served.port, hostile_input(seed, number))
        except TimeoutError:
            outcome.expect(False, f"input {number} got no answer")
            continue
        if (seconds := time.monotonic() - started) > SLOW_S:
            outcome.figures.setdefault("slow inputs", {})[number] = round(seconds, 1)
        statuses[status] += 1
        outcome.expect(status in ALLOWED, f"input {number} got {status}: {reply[:200]!r}")


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Send NUM_INPUTS × share inputs over NUM_CONNECTIONS connections, with a harmless request after every 250."""
    outcome, statuses, started = Outcome("hostile inputs"), Counter[int](), time.monotonic()
    total = max(PROBE_EVERY, round(NUM_INPUTS * share))
    with Start(model, folder, (*SMALL, *FEW_PAGES, *IMPATIENT)) as served:
        served.wait_ready()
        expected, before = served.reference(), served.resources()
        with Prober(served.url, served.process.pid) as prober:
            for first in range(0, total, PROBE_EVERY):
                asyncio.run(_send_all(served, seed, range(first, min(total, first + PROBE_EVERY)), outcome, statuses))
                outcome.expect(served.reference() == expected, f"other tokens after input {first + PROBE_EVERY}")
        _, busy = served.wait_idle()
        after = served.resources()
    outcome.expect(not busy, f"something is left: {busy}")
    outcome.expect(after.num_files <= before.num_files + 8, f"descriptors went from {before} to {after}")
    outcome.figures |= {
        "inputs": total,
        "seed": seed,
        "statuses": dict(sorted(statuses.items())),
        "seconds": round(time.monotonic() - started),
        "worst /live, ms": round(1000 * prober.max_live_s),
        "memory, MiB": f"{before.rss_bytes >> 20} → {after.rss_bytes >> 20}",
    }
    return outcome


async def _send_all(served: Served, seed: int, numbers: range, outcome: Outcome, statuses: Counter[int]) -> None:
    waiting: asyncio.Queue[int] = asyncio.Queue()
    for number in numbers:
        waiting.put_nowait(number)
    await asyncio.gather(*(_send(served, seed, waiting, outcome, statuses) for _ in range(NUM_CONNECTIONS)))
