"""Ingress: reads requests, chooses a replica for each by the beginning of its prompt, and relays the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError
from werkzeug.datastructures import Headers

from server.api_keys import add_file_keys
from server.auth import ApiKeyAuth
from server.body import BodyMeter, make_body_error
from server.errors import ApiError, unavailable
from server.logs import configure_logging
from server.middleware import App, Send
from server.ray.forwarding import ForwardedRequest, Message, copy_scope
from server.ray.prompts import hash_body
from server.ray.relay import ReplicaLost, relay, send_error
from server.ray.settings import RaySettings
from server.request_reader import LARGE_BODY_BYTES

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from jaxserve import PromptHasher, PromptPages

log = logging.getLogger(__name__)

LOST_ERRORS = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
METRICS_PATH = "/metrics"


class ClientLeft(Exception):
    """The client has disconnected before its request was complete."""


class Ingress:
    """A deployment of Ray Serve that serves HTTP. Its replicas hold no model, and nothing that a request leaves behind.

    engine   the deployment of EngineReplica
    """

    def __init__(self, engine: DeploymentHandle, settings: RaySettings) -> None:
        """Raises StartupError if API keys cannot be read."""
        configure_logging(settings.server.log_level, settings.server.log_format)
        self._config = add_file_keys(settings.server)
        self._streams: Any = engine.options(stream=True)  # Any: its methods return unions of types
        self._engine: Any = engine
        self._auth = ApiKeyAuth(self._config)
        self._meter = BodyMeter(self._config.max_inflight_body_bytes)
        self._hasher: PromptHasher | None = None

    def __serve_build_asgi_app__(self) -> App:
        """Return the ASGI application that Serve calls with every request."""

        async def serve(scope: Any, receive: Any, send: Send) -> None:  # a function: uvicorn takes no bound method
            if scope["type"] == "lifespan":
                await _follow_lifespan(receive, send)
            elif scope["type"] == "http":
                await self._answer(copy_scope(scope), receive, send)

        return serve

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        path = scope["path"]
        try:
            if path == METRICS_PATH:
                raise ApiError(404, "Each replica has metrics of its own; they are among those that Ray exports.")
            body = await self._read_body(receive)
        except ApiError as error:
            await send_error(error, path, send)
        except ClientLeft:
            return
        else:
            prompt = await self._hash(scope, body)
            request = ForwardedRequest(scope, body) if prompt is None else ForwardedRequest(scope, body, prompt)
            await relay(request, self._respond, send)

    async def _read_body(self, receive: Any) -> bytes:
        """Return the whole body, which counts as held until the current task is done.

        Raises ApiError if it is too large, too late or one too many, ClientLeft if the client has left.
        """
        pieces: list[bytes] = []
        num_bytes = 0
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    piece = message.get("body", b"")
                    num_bytes += len(piece)
                    if num_bytes > self._config.max_body_bytes:
                        raise make_body_error(413, self._config)
                    if self._meter.held_bytes + len(piece) > self._meter.limit_bytes:
                        raise make_body_error(503, self._config)
                    self._meter.hold(len(piece))
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            raise make_body_error(408, self._config) from None

    async def _hash(self, scope: dict[str, Any], body: bytes) -> PromptPages | None:
        """Return the pages of a request's prompt; None if there is none, or for a sender without a key."""
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        path, address = scope["path"], (scope.get("client") or [None])[0]
        credentials = self._auth.find_credentials(headers, path)
        if scope["method"] != "POST" or not self._auth.is_authorized("POST", path, credentials):
            return None
        hasher = await self._get_hasher()
        sender = self._auth.identify_sender(headers, path, address)
        arguments = (path, body, hasher, self._config, sender)
        return (
            hash_body(*arguments) if len(body) <= LARGE_BODY_BYTES else await asyncio.to_thread(hash_body, *arguments)
        )

    async def _get_hasher(self) -> PromptHasher:
        """Return what hashes prompts, from any replica, asked for once; waits until there is one."""
        while self._hasher is None:
            try:
                self._hasher = await self._engine.make_prompt_hasher.remote()
            except LOST_ERRORS as error:
                log.warning("a replica was lost while it was asked how to hash prompts: %s", type(error).__name__)
        return self._hasher

    async def _respond(self, request: ForwardedRequest) -> AsyncGenerator[Sequence[Message], None]:
        """Have a replica answer. Raises ReplicaLost if it is lost, ApiError if too many requests wait for one."""
        answer = self._streams.respond.remote(request)
        try:
            async for messages in answer:
                yield messages
        except LOST_ERRORS as error:
            raise ReplicaLost(type(error).__name__) from error
        except BackPressureError:
            raise unavailable("Too many requests wait for a replica; please try again later.") from None
        finally:
            answer.cancel()


async def _follow_lifespan(receive: Any, send: Send) -> None:
    """Confirm the start and the end of the application, which has nothing to do then."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
