"""Asks for the server's health, as a load balancer does, and compares the answer with the truth."""

import asyncio
from random import Random
from typing import Any

from tests.simulation.deployment import NEVER, Deployment
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import Link, Network

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PROMPTLY_S = 0.25  # in which it must be answered
SOON_S = 1.0  # after which a dead engine must be told of


class WrongHealth(AssertionError):
    """The server has said the wrong thing of its health, or nothing."""


class HealthMonitor:
    """Asks every few seconds, and often while something is wrong.

    longest_step_s   The longest step of this life of the engine.
    """

    def __init__(self, loop: VirtualLoop, network: Network, deployment: Deployment, settings: dict[str, Any]) -> None:
        self._loop, self._network, self._deployment, self._settings = loop, network, deployment, settings
        self._rng, self._is_stopped = Random("health"), False
        self._engine: Any = None
        self._polled_s: float | None = None
        self._num_tokens = 0  # that the engine counts for its step
        self._ill_until_s = 0.0  # the last time at which a 503 was right
        self.longest_step_s, self._most_s_per_token = 0.0, 0.0

    @property
    def step_age_s(self) -> float:
        """How long the engine has been at its step."""
        return 0.0 if self._polled_s is None else self._loop.time() - self._polled_s

    def on_engine(self) -> None:
        """Look at what the engine's thread does whenever a thread has blocked."""
        engine = self._deployment.life.engine if self._deployment.lives else None
        if engine is not self._engine:
            self._engine, self.longest_step_s, self._most_s_per_token, self._polled_s = engine, 0.0, 0.0, None
        if engine is None:
            return
        began = engine.heartbeat._began_s
        if began != self._polled_s:
            if self._polled_s is not None:
                seconds = (self._loop.time() if began is None else began) - self._polled_s
                self.longest_step_s = max(self.longest_step_s, seconds)
                self._most_s_per_token = max(self._most_s_per_token, seconds / max(1, self._num_tokens))
            self._note_illness()
            self._polled_s = began
        self._num_tokens = engine.heartbeat._num_tokens

    def _note_illness(self) -> None:
        if self.step_age_s > 1.0:
            self._ill_until_s = self._loop.time()

    def _limit_s(self) -> float:
        """Return the seconds after which the step is late beyond doubt."""
        timeout_s = self._settings["step_timeout_s"]
        if not self.longest_step_s:
            return timeout_s
        longest_s = max(self.longest_step_s, self._most_s_per_token * self._num_tokens)
        return min(timeout_s, 2 * longest_s + 1.0)

    def stop(self) -> None:
        """Ask no more."""
        self._is_stopped = True

    async def run(self) -> None:
        """Ask until stopped."""
        while not self._is_stopped:
            await asyncio.sleep(0.3 if self._is_ill() else self._rng.uniform(1.0, 8.0))
            await self._ask()

    def _is_ill(self) -> bool:
        return not self._deployment.life.is_up or self.step_age_s > 0.3

    async def _ask(self) -> None:
        life, sent_s, age_s = self._deployment.life, self._loop.time(), self.step_age_s
        if age_s > self._settings["step_timeout_s"] + SOON_S and life.dead_at_s == life.closing_s == NEVER:
            raise WrongHealth(f"the engine lives, although it has been at a step for {age_s:.1f} s")
        dead_s = life.dead_at_s
        must_be_ill = dead_s + SOON_S < sent_s or life.draining_s < sent_s
        is_late, polled_s = age_s > self._limit_s(), self._polled_s
        was_well = life.is_up and age_s <= 1.0
        status = await self._get_status()
        after = self._deployment.life
        seconds = self._loop.time() - sent_s
        is_tight = self._settings["is_tight"]
        if after is not life or after.ended_s < NEVER:
            return  # another process may have answered
        must_be_ill |= is_late and polled_s == self._polled_s  # the step has not ended meanwhile
        if must_be_ill and status == 200:
            raise WrongHealth(f"200, although the step is {age_s:.1f} s old, or the engine dead since {dead_s}")
        stayed_well = was_well and after.is_up and self.step_age_s <= 1.0 and self._ill_until_s < sent_s
        if stayed_well and status != 200 and not (is_tight and status is None):
            raise WrongHealth(f"{status}, although all is well")
        if status is not None and seconds > PROMPTLY_S:
            raise WrongHealth(f"it took {seconds:.2f} s")

    async def _get_status(self) -> int | None:
        try:
            transport = await self._network.connect(Link(), "10.0.9.9", 0)
        except ConnectionRefusedError:
            return None
        reader = asyncio.StreamReader(loop=self._loop)
        transport.attach(asyncio.StreamReaderProtocol(reader, loop=self._loop))
        transport.write(REQUEST)
        try:
            async with asyncio.timeout(10.0):
                data = await reader.read()
        except (TimeoutError, ConnectionError):
            data = b""
        transport.close()
        return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else None
