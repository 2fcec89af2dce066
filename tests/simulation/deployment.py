"""The server of a simulation, started again whenever it has ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxserve import AsyncLLM
from jaxserve.engine.engine import Engine
from jaxserve.engine.request import Request
from jaxserve.outputs import TokenOutput
from server.app import create_app, get_state
from server.config import ServerConfig
from server.lifecycle import EX_ENGINE_DEAD, EX_OK, HEALTH_POLL_S, serve
from tests.simulation.model import SimulatedModel
from tests.simulation.plan import KEYS
from tests.simulation.prefix_watch import PrefixWatch
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import Listener, Network

RESTART_S = 0.5
NEVER = float("inf")


@dataclass
class Incarnation:
    """One life of the server, from its start to its exit code. Times are virtual; NEVER: it has not happened.

    prefixes      Follows its prefix cache.
    requests      Engine requests by the number of the client's request, in the order of its prompts.
    by_id         Engine requests by the ids of their outputs.
    heard         Their tokens so far.
    ended         How those that have ended did so.
    dead_at_s     When its engine died.
    closing_s     When its model was closed.
    """

    number: int
    started_s: float
    llm: Any = None
    state: Any = None
    engine: Engine | None = None
    prefixes: PrefixWatch = field(default_factory=PrefixWatch)
    requests: dict[int, list[list[Request]]] = field(default_factory=dict)
    by_id: dict[int, Request] = field(default_factory=dict)
    heard: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    listening_s: float = NEVER
    draining_s: float = NEVER
    dead_at_s: float = NEVER
    closing_s: float = NEVER
    ended_s: float = NEVER
    exit_code: int | None = None

    def add(self, request: Request) -> None:
        """Take note of a choice of a prompt."""
        jobs = self.requests.setdefault(request.seed // 8, [])
        if request.parent_id is None:
            jobs.append([request])
        else:
            next(job for job in jobs if job[0].request_id == request.parent_id).append(request)
        self.by_id.update(dict.fromkeys(request.output_ids, request))
        self.prefixes.add_tokens(request, request.prompt_ids)

    @property
    def is_up(self) -> bool:
        """Whether it serves."""
        return self.listening_s < NEVER and self.draining_s == NEVER and self.dead_at_s == NEVER


class SimulatedLLM(AsyncLLM):
    """An AsyncLLM that tells of the outputs of each step, and when it is closed."""

    life: Incarnation
    on_outputs: Callable[[Incarnation, list[TokenOutput]], None]

    async def close(self) -> None:
        self.life.closing_s = asyncio.get_running_loop().time()
        await super().close()

    def _on_outputs(self, outputs: list[TokenOutput]) -> None:
        self.on_outputs(self.life, outputs)
        super()._on_outputs(outputs)


class Deployment:
    """Keeps a server running.

    lives     All lives of the server.
    on_end    Called with a life that has ended.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        network: Network,
        model: SimulatedModel,
        settings: dict[str, Any],
        on_outputs: Callable[[Incarnation, list[TokenOutput]], None],
        on_end: Callable[[Incarnation], None],
    ) -> None:
        self._loop, self._network, self._model, self._settings = loop, network, model, settings
        self._on_outputs, self._on_end = on_outputs, on_end
        self.lives: list[Incarnation] = []
        self._is_stopping = False

    @property
    def life(self) -> Incarnation:
        """The newest life."""
        return self.lives[-1]

    async def run(self) -> None:
        """Start the server again and again, until `stop`."""
        while not self._is_stopping:
            life = Incarnation(len(self.lives), self._loop.time())
            self.lives.append(life)
            await self._live(life)
            self._on_end(life)
            if not self._is_stopping:
                await asyncio.sleep(RESTART_S)

    def stop(self) -> None:
        """End the server for good."""
        self._is_stopping = True
        self.terminate()

    def terminate(self) -> bool:
        """Let the process get SIGTERM, if it is up."""
        return self._loop.send_signal(signal.SIGTERM)

    async def _live(self, life: Incarnation) -> None:
        llm_class = type("LLM", (SimulatedLLM,), {"life": life, "on_outputs": staticmethod(self._on_outputs)})
        life.llm = llm_class(self._model.make_config(life.number))
        self._watch_client(life)
        life.engine = self._model.engine
        config = make_server_config(self._settings)
        app = create_app(life.llm, config)
        life.state = get_state(app)
        self._watch_drain(life)
        self._network.listener = listener = Listener(self._network)
        life.listening_s = self._loop.time()
        sockets: Any = [listener]
        life.exit_code = await serve(app, config, sockets)
        self._network.listener = None
        life.ended_s = self._loop.time()
        self._loop.threads.kill_all()  # the process ends, and with it a step that hangs

    def _watch_client(self, life: Incarnation) -> None:
        client = life.llm._client
        client._faults = self._model.faults
        make_requests = client._make_requests

        def make_noted(ready: Any) -> Iterator[Request]:
            for request in make_requests(ready):
                life.add(request)
                yield request

        client._make_requests = make_noted

    def _watch_drain(self, life: Incarnation) -> None:
        slots, drain = life.state.slots, life.state.slots.drain

        async def noted_drain(timeout_s: float) -> None:
            life.draining_s = min(life.draining_s, self._loop.time())
            await drain(timeout_s)

        slots.drain = noted_drain


def make_server_config(settings: dict[str, Any]) -> ServerConfig:
    """Make the configuration of the server from the settings of a plan."""
    names = (
        *("max_connections", "max_connections_per_ip", "max_concurrency_per_key", "max_unsent_bytes"),
        *("queue_timeout_s", "request_timeout_s", "send_stall_timeout_s", "body_timeout_s", "drain_timeout_s"),
        *("isolate_cache_per_key", "sse_keep_alive_interval", "stream_interval"),
    )
    return ServerConfig(
        api_key=KEYS if settings["has_keys"] else (),
        open_paths=("/metrics",),
        disable_access_log=True,
        log_level="warning",
        **{name: settings[name] for name in names},
    )


def is_expected_exit(life: Incarnation) -> bool:
    """Tell whether a life has ended with the code that fits its end; nobody looks at an engine that dies at the end."""
    is_seen = life.dead_at_s + HEALTH_POLL_S < life.closing_s
    return life.exit_code in ((EX_ENGINE_DEAD,) if is_seen else (EX_OK, EX_ENGINE_DEAD)[: 1 + (life.dead_at_s < NEVER)])
