"""EngineReplica: a model and the server's application in a process of Ray Serve."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from server.api_keys import add_file_keys
from server.logs import configure_logging
from server.ray.autoscaling import make_autoscaling_stats
from server.ray.forwarding import LOST, AsgiExchange, ForwardedRequest, Message
from server.ray.metrics import RayMetrics
from server.ray.settings import RaySettings
from server.startup_checks import check_server

if TYPE_CHECKING:
    from jaxserve import PromptHasher

log = logging.getLogger(__name__)

METRICS_PERIOD_S = 5.0
REPLICA_HEADER = b"x-jaxserve-replica"


class EngineReplica:
    """A deployment of Ray Serve. Its replicas have a model each, and answer requests that the ingress forwards.

    A replica whose engine has died answers what it has with errors, takes nothing more, and ends its process, which
    Serve replaces.
    """

    def __init__(self, settings: RaySettings) -> None:
        """Load the model. Blocks until requests can be served.

        Raises StartupError if it cannot be served with these settings.
        """
        if settings.replicas.accelerator == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")  # other devices of this machine are not this replica's
        configure_logging(settings.server.log_level, settings.server.log_format)
        check_server(settings.server)
        from ray import serve

        from jaxserve import AsyncLLM
        from server.app import create_app, get_state

        self._id = serve.get_replica_context().replica_id.unique_id
        self._llm = AsyncLLM.load(settings.engine)
        self._app = create_app(self._llm, add_file_keys(settings.server))
        self._state = get_state(self._app)
        self._metrics = RayMetrics()
        loop = asyncio.get_running_loop()  # Serve calls constructors on the loop of its requests
        self._watchers = [loop.create_task(work) for work in (self._app.startup(), self._watch(), self._publish())]
        self._watchers.append(loop.create_task(self._state.loop_lag.watch()))

    async def respond(self, request: ForwardedRequest) -> AsyncGenerator[list[Message], None]:
        """Yield the ASGI messages of the answer, all that are there at a time; the first one names this replica."""
        if self._llm.is_dead:
            yield [{"type": LOST, "replica": self._id}]
            return
        exchange = AsgiExchange(self._app, request).run()
        try:
            async for messages in exchange:
                for message in messages:
                    if message["type"] == "http.response.start":
                        message["headers"] = [*message["headers"], (REPLICA_HEADER, self._id.encode())]
                yield messages
        finally:
            await exchange.aclose()

    async def make_prompt_hasher(self) -> PromptHasher:
        """Make what hashes prompts as the prefix cache of this replica and of all others does."""
        return self._llm.make_prompt_hasher()

    async def check_health(self) -> None:
        """Tell Serve whether the replica can answer. Raises RuntimeError if it cannot."""
        if self._llm.is_dead:
            raise RuntimeError("the engine is dead")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the autoscaling policy reads."""
        return make_autoscaling_stats(self._llm.stats())

    async def __del__(self) -> None:
        """Close the model. Serve calls it once, when the replica has drained."""
        for task in self._watchers:
            task.cancel()
        self._state.reader.close()
        if self._state.tracer is not None:
            await asyncio.to_thread(self._state.tracer.close)
        await self._llm.close()

    async def _watch(self) -> None:
        """Wait for the death of the engine, fail all requests, and end the process as `jaxserve serve` does."""
        from server.lifecycle import DEAD_ENGINE_GRACE_S, EX_ENGINE_DEAD, HEALTH_POLL_S

        while not self._llm.is_dead:
            await asyncio.sleep(HEALTH_POLL_S)
        log.error("the engine is dead; this replica ends")
        self._state.slots.fail_all()
        await asyncio.sleep(DEAD_ENGINE_GRACE_S)
        os._exit(EX_ENGINE_DEAD)

    async def _publish(self) -> None:
        while True:
            self._metrics.publish(self._llm.stats())
            await asyncio.sleep(METRICS_PERIOD_S)
