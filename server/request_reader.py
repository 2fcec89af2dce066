"""Reads requests, and does the work that grows with their size beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import quart
from pydantic import BaseModel

from jaxserve import FairThreads
from server.body import BodyMeter, parse_json, read_body
from server.schemas.common import validate_body

if TYPE_CHECKING:
    from server.config import ServerConfig

LARGE_BODY_BYTES = 32 * 1024  # about a millisecond of work; less than that is done at once
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Kind = tuple[type[BaseModel], Callable[[Any], None] | None]
"""The schema of a body, and its check."""


class HostWork:
    """The work for one request, on the event loop if the request is small, in a thread if it is large."""

    def __init__(self, threads: FairThreads, is_large: bool, caller: str) -> None:
        self._threads, self._is_large, self._caller = threads, is_large, caller

    def add_bytes(self, num_bytes: int) -> None:
        """Count what the request refers to beside its body, such as a conversation that is kept."""
        self._is_large = self._is_large or num_bytes > LARGE_BODY_BYTES

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function, which must not need the event loop or the current request.

        Raises Overloaded if too many large requests of the caller wait, and whatever the function raises.
        """
        if not self._is_large:
            return function()
        return await asyncio.wrap_future(self._threads.submit(function, self._caller))


class RequestReader:
    """Reader of the requests of one server.

    Large ones are worked on by one thread, for callers in turn: Python runs one thread at a time anyway, and so they
    share what is left by the event loop and the engine.

    identify   Tells who sends a request.
    """

    def __init__(self, config: ServerConfig, meter: BodyMeter, identify: Callable[[quart.Request], str]) -> None:
        self._config, self._meter, self._identify = config, meter, identify
        self._threads = FairThreads(1, "jaxserve-requests")

    async def read(self, schema: type[M], check: Callable[[M], None] | None = None) -> tuple[M, HostWork]:
        """Read, validate and check the current request, and return it with the place for further work on it.

        Raises ApiError if the body cannot be read or does not match the schema, and whatever `check` raises.
        """
        return await self._read(lambda _: (schema, check))

    async def read_any(self, choose: Callable[[dict[str, Any]], Kind]) -> tuple[BaseModel, HostWork]:
        """Read the current request as `read` does. choose: returns its schema and check; what it raises is raised."""
        return await self._read(choose)

    async def _read(self, choose: Callable[[dict[str, Any]], Kind]) -> tuple[Any, HostWork]:
        data = await read_body(quart.request, self._config, self._meter)
        work = HostWork(self._threads, len(data) > LARGE_BODY_BYTES, self._identify(quart.request))
        return await work.run(partial(self._parse, data, choose)), work

    def close(self) -> None:
        """End the thread; work that has not begun is cancelled."""
        self._threads.shutdown()

    def _parse(self, data: bytes, choose: Callable[[dict[str, Any]], Kind]) -> BaseModel:
        body = parse_json(data, self._config.max_json_nodes)
        schema, check = choose(body)
        request = validate_body(schema, body)
        if check is not None:
            check(request)
        return request
