"""ForwardedRequest: a request as the ingress hands it to an engine; AsgiExchange: an application's answer to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxserve import PromptPages
from server.middleware import App

Message = dict[str, Any]
"""A message of ASGI's `send`, or LOST."""
LOST = "jaxserve.lost"  # the type of a message by which a replica says that it cannot answer; `replica` is its id
# The parts of an ASGI scope that an application reads; others belong to the process that has the connection.
SCOPE_KEYS = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
SCOPE_KEYS += ("headers", "client", "server")
MAX_PENDING = 64  # messages that wait to be taken before the application has to wait
DISCONNECT_GRACE_S = 5.0  # for an application to notice that nobody waits for its answer


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A request whose body is complete. It pickles.

    scope      of ASGI, SCOPE_KEYS of it
    body       the whole body
    prompt     the pages of its prompt, by which a replica is chosen; without any, the least busy one is
    avoided    ids of replicas that have failed to answer it; they are chosen only if there are no others
    """

    scope: Mapping[str, Any]
    body: bytes
    prompt: PromptPages = field(default_factory=PromptPages)
    avoided: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """The path that was asked for."""
        return self.scope["path"]

    def avoid(self, replica: str | None) -> ForwardedRequest:
        """Return the request for a further try. replica: the id of the one that failed; None: it is not known."""
        return self if replica is None else replace(self, avoided=self.avoided | {replica})


def copy_scope(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of an ASGI scope that are forwarded. The path is as if the application were at the root."""
    copied = {key: scope[key] for key in SCOPE_KEYS if key in scope}
    copied["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    root = copied.pop("root_path", "").rstrip("/")
    if root and (scope["path"] + "/").startswith(root + "/"):
        copied["path"] = scope["path"][len(root) :] or "/"
    return copied


class AsgiExchange:
    """One request to an ASGI application in this process, without a connection."""

    def __init__(self, app: App, request: ForwardedRequest) -> None:
        self._app, self._request = app, request
        self._has_sent_body = False
        self._pending: list[Message] = []
        self._has_changed, self._has_room, self._is_left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self) -> AsyncGenerator[list[Message], None]:
        """Yield the messages of the answer, all that are there at a time.

        If it is closed before the end, the application is told that the client has left.

        Raises whatever the application raises.
        """
        task = asyncio.ensure_future(self._app(dict(self._request.scope), self._receive, self._send))
        task.add_done_callback(lambda _: self._has_changed.set())
        try:
            while True:
                await self._has_changed.wait()
                self._has_changed.clear()
                messages, self._pending = self._pending, []
                self._has_room.set()
                if messages:
                    yield messages
                if task.done() and not self._pending:
                    task.result()
                    return
        finally:
            self._is_left.set()
            self._has_room.set()
            if not task.done():
                await asyncio.wait([task], timeout=DISCONNECT_GRACE_S)
            task.cancel()

    async def _receive(self) -> Message:
        if not self._has_sent_body:
            self._has_sent_body = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._is_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        while len(self._pending) >= MAX_PENDING and not self._is_left.is_set():
            self._has_room.clear()
            await self._has_room.wait()
        self._pending.append(message)
        self._has_changed.set()
