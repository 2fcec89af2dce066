"""Relays the answer of a replica to the client, and asks another replica if the first is lost before it has begun.

An answer has begun with the first byte of its body that was sent: status and headers are held back until then. What had
begun ends as in a server whose engine has died, with an error event in a stream; the client must ask again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from jaxserve import EngineStopped
from server.errors import ApiError, to_api_error, unavailable
from server.json_bytes import encode_json
from server.messages.errors import is_messages_path, make_messages_error, render_error
from server.middleware import Send
from server.ray.forwarding import LOST, ForwardedRequest, Message
from server.writer import DONE, KEEP_ALIVE, Event

log = logging.getLogger(__name__)

MAX_TRIES = 3  # of a request: one that ends its replicas must not end them all
RESPONSES_PATH = "/v1/responses"
Respond = Callable[[ForwardedRequest], AsyncGenerator[Sequence[Message], None]]
"""Has a replica answer. Raises ReplicaLost if it is lost on the way."""


class ReplicaLost(EngineStopped):
    """A replica that was to answer is gone. `replica` is its id, if it is known."""

    def __init__(self, reason: str, replica: str | None = None) -> None:
        super().__init__(reason)
        self.replica = replica


async def relay(request: ForwardedRequest, respond: Respond, send: Send) -> None:
    """Send the answer of a replica to the client, or an error.

    Raises what ended an answer that had begun and is no stream of events: only the end of its connection tells the
    client.
    """
    for _ in range(MAX_TRIES):
        answer = _Answer(request.path, send)
        try:
            async with aclosing(respond(request)) as parts:
                async for messages in parts:
                    for message in messages:
                        await answer.forward(message)
            return
        except ReplicaLost as lost:
            if answer.has_begun:
                log.warning("an answer broke off: %s", lost)
                await answer.break_off(lost)
                return
            log.warning("a request goes to another replica: %s", lost)
            request = request.avoid(lost.replica)
        except Exception as error:
            await (answer.break_off(error) if answer.has_begun else send_error(to_api_error(error), request.path, send))
            return
    error = unavailable("The replicas that were to answer have failed; please try again later.")
    await send_error(error, request.path, send)


async def send_error(error: ApiError, path: str, send: Send) -> None:
    """Send an error as the whole answer."""
    body = encode_json(render_error(error, path))
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Answer:
    """The answer of one replica, as far as it has come.

    has_begun   a byte of it was sent
    """

    def __init__(self, path: str, send: Send) -> None:
        self.has_begun = False
        self._path, self._send = path, send
        self._start: Message | None = None
        self._is_stream = False
        self._num_events = 0

    async def forward(self, message: Message) -> None:
        """Send a message, or hold it back. Raises ReplicaLost if it is the replica's word that it cannot answer."""
        if message["type"] == LOST:
            raise ReplicaLost("its engine has died", message["replica"])
        if message["type"] == "http.response.start":
            self._start = message
            self._is_stream = _is_event_stream(message)
            return
        body = message.get("body", b"")
        if not self.has_begun:
            if not body and message.get("more_body", False):
                return
            self.has_begun = True
            await self._send(self._start)
        self._num_events += body.count(b"\n\n") - body.count(KEEP_ALIVE)
        await self._send(message)

    async def break_off(self, error: Exception) -> None:
        """End an answer that has begun, as the server does when an engine dies. Raises `error` if it is no stream."""
        if not self._is_stream:
            raise error
        body = _make_last_events(to_api_error(error, admitted=True), self._path, self._num_events)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _is_event_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


def _make_last_events(error: ApiError, path: str, num_events: int) -> bytes:
    """Make the end of a stream that broke off, in the form of its API.

    num_events: those that were sent. A stream of the Responses API ends with OpenAI's event `error`: the whole
    response, which `response.failed` has, went with its replica.
    """
    if is_messages_path(path):
        return Event("error", make_messages_error(error)).encode()
    if path == RESPONSES_PATH:
        data: dict[str, Any] = {"type": "error", "code": "server_error", "message": error.message, "param": None}
        return Event("error", data | {"sequence_number": num_events}).encode()
    return Event(None, error.body).encode() + DONE
