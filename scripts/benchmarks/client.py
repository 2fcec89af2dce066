"""A client of any OpenAI-compatible server that notes when each token of an answer came. Standard library only."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from scripts.benchmarks.results import Arrivals, Timeline

Messages: TypeAlias = list[dict[str, str]]


class Failed(Exception):
    """The server cannot be measured; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    model: str
    api_key: str | None

    @asynccontextmanager
    async def ask(
        self, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """One POST (GET without a body) on a connection of its own: the status, and the answer's lines as they come."""
        parts = urlsplit(self.url)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if context else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        data = json.dumps(body).encode() if body else b""
        head = [
            f"{'POST' if body else 'GET'} {parts.path.rstrip('/')}{path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *([f"Authorization: Bearer {self.api_key}"] if self.api_key else []),
        ]
        try:
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            pieces = _chunks(reader) if "transfer-encoding: chunked" in answer else _to_the_end(reader)
            yield int(answer.split(" ", 2)[1]), _lines(pieces)
        finally:
            writer.close()

    async def json(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """The status and the whole answer; None for what is not JSON."""
        async with self.ask(path, body) as (status, lines):
            text = b"\n".join([line async for line in lines])
        try:
            return status, json.loads(text)
        except ValueError:
            return status, None

    async def named(self) -> "Server":
        """Return the server with its first model if none was chosen. Raises Failed if it lists none."""
        if self.model:
            return self
        status, answer = await self.json("/v1/models")
        if status != 200:
            raise Failed(f"{self.url}/v1/models answered {status}: {str(answer)[:500]}")
        return replace(self, model=answer["data"][0]["id"])

    async def count(self, messages: Messages) -> int:
        """Count the tokens of a chat prompt, by /tokenize or by generating a token. Raises Failed if neither works."""
        body = {"model": self.model, "messages": messages}
        status, answer = await self.json("/tokenize", body)
        if status == 200 and "count" in answer:
            return answer["count"]
        status, answer = await self.json("/v1/chat/completions", body | {"max_tokens": 1})
        if status != 200:
            raise Failed(f"{self.url} answered {status}: {str(answer)[:500]}")
        return answer["usage"]["prompt_tokens"]

    async def timed(self, messages: Messages, num_tokens: int, arrivals: Arrivals | None = None) -> Timeline:
        """One streamed answer of `num_tokens` tokens. Who passes `arrivals` may look on while they come."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        arrivals, num_input, error = arrivals or Arrivals(time.perf_counter()), 0, None
        try:
            async with self.ask("/v1/chat/completions", body) as (status, lines):
                async for line in lines:
                    now = time.perf_counter()
                    event: dict[str, Any] | None
                    event = _event(line) if status == 200 else {"error": line.decode(errors="replace")}
                    if event is None:
                        continue
                    if "error" in event:
                        error = str(event["error"])
                        break
                    usage = event.get("usage") or {}
                    num_input = usage.get("prompt_tokens", num_input)
                    has_text = any((c.get("delta") or {}).get("content") for c in event.get("choices") or ())
                    seen = usage.get("completion_tokens", len(arrivals.came) + has_text)
                    arrivals.add(now, max(0, seen - len(arrivals.came)))
        except (OSError, asyncio.IncompleteReadError, ValueError) as problem:
            error = repr(problem)
        if error is None and len(arrivals.came) != num_tokens:
            error = f"{len(arrivals.came)} tokens came instead of {num_tokens}"
        return Timeline(num_input, arrivals.asked, tuple(arrivals.came), error)


def _event(line: bytes) -> dict[str, Any] | None:
    data = line[5:].strip() if line.startswith(b"data:") else b""
    return json.loads(data) if data and data != b"[DONE]" else None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response in chunked transfer coding (RFC 9112, 7.1)."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _to_the_end(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest
