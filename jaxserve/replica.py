"""Replica: one engine with its thread, and counts of the requests that it has not finished."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from jaxserve.engine.build import LoadedEngine
from jaxserve.engine.request import Request
from jaxserve.engine.thread import AddRequests, EngineThread, FinishRequests, Order
from jaxserve.engine_snapshot import StatsSnapshot
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.parallel.placement import DeviceMemory

MAX_EXPECTED_TOKENS = 256  # that an output is expected to have, in the load: most end long before their max_tokens


class Replica:
    """One engine. It has its own thread, devices, weights and cache. Its methods are safe in any thread.

    rank     Its number.
    loaded   The engine, and facts about it.
    """

    def __init__(self, rank: int, loaded: LoadedEngine, on_outputs: Callable[[list[TokenOutput]], None]) -> None:
        """Start the engine's thread, which calls `on_outputs` with the outputs of every step."""
        self.rank, self.loaded = rank, loaded
        self._on_outputs = on_outputs
        self._lock = threading.Lock()
        self._unfinished: dict[int, int] = {}  # output id → tokens that it is expected to have
        self._waiting: dict[int, int] = {}  # request id → prompt tokens that are not computed yet
        self._thread = EngineThread(loaded.engine, self._record)
        self._thread.start()

    def submit(self, requests: Sequence[Request], num_choices: int) -> None:
        """Hand over requests of one client together; num_choices: how many choices it will have had in the end."""
        with self._lock:
            for request in requests:
                num_prompt_tokens = len(request.prompt_ids)
                if request.parent_id is None:  # the other choices share its prompt
                    self._waiting[request.request_id] = num_prompt_tokens
                expected = min(request.max_total_tokens - num_prompt_tokens, MAX_EXPECTED_TOKENS)
                self._unfinished.update(dict.fromkeys(request.output_ids, expected))
        self._thread.submit(AddRequests(tuple(requests), num_choices))

    def finish(self, output_ids: Sequence[int], reason: FinishReason = FinishReason.ABORT) -> None:
        """End requests whose caller has left or whose text has ended; finished and unknown ids are ignored."""
        if not output_ids:
            return
        with self._lock:
            for output_id in output_ids:
                self._forget(output_id)
        self._thread.submit(FinishRequests(tuple(output_ids), reason))

    def ask(self, order: Order) -> "Future[Any]":
        """Return the future of the engine's answer to an order, as EngineThread.ask does."""
        return self._thread.ask(order)

    @property
    def num_unfinished(self) -> int:
        """The number of sequences that have not ended."""
        return len(self._unfinished)

    @property
    def num_waiting_tokens(self) -> int:
        """The number of prompt tokens that wait to be computed."""
        with self._lock:
            return sum(self._waiting.values())

    @property
    def load(self) -> int | None:
        """The number of tokens that its unfinished requests are expected to need; None if it cannot serve any."""
        if not self._thread.is_alive:
            return None
        with self._lock:
            return sum(self._waiting.values()) + sum(self._unfinished.values())

    @property
    def is_alive(self) -> bool:
        """Whether the engine runs and is not dead."""
        return self._thread.is_alive

    @property
    def is_responsive(self) -> bool:
        """Whether the engine is alive and its step does not take longer than expected (engine/heartbeat.py)."""
        return self._thread.is_responsive

    def stats(self) -> StatsSnapshot:
        """Return the engine's metrics."""
        return self.loaded.engine.stats()

    def read_memory(self) -> tuple[DeviceMemory, ...]:
        """Return the memory of each of its devices that counts it."""
        placement = self.loaded.placement
        return () if placement is None else placement.read_memory()

    def stop(self) -> None:
        """End the engine's thread. Requests that still run end with EngineStopped. Idempotent."""
        self._thread.stop()

    def close(self) -> None:
        """Free the device memory and end the publisher of events, after `stop`."""
        self.loaded.close()

    def _record(self, outputs: list[TokenOutput]) -> None:
        """Update the counts and pass outputs on. An output's first tokens mean that its prompt is computed."""
        with self._lock:
            for output in outputs:
                self._waiting.pop(output.request_id, None)
                if output.finish_reason is not None:
                    self._forget(output.request_id)
        self._on_outputs(outputs)

    def _forget(self, output_id: int) -> None:
        self._waiting.pop(output_id, None)
        self._unfinished.pop(output_id, None)


def sum_stats(snapshots: Sequence[StatsSnapshot]) -> StatsSnapshot:
    """Return the metrics of several engines as those of one."""
    first = snapshots[0]
    if len(snapshots) == 1:
        return first
    numbers = ("num_requests_running", "num_requests_waiting", "num_requests_preempted")
    groups = zip(*(snapshot.cache_groups for snapshot in snapshots), strict=True)
    return replace(
        first,
        **{name: sum(getattr(snapshot, name) for snapshot in snapshots) for name in numbers},
        **{
            name: tuple(sorted({each for snapshot in snapshots for each in getattr(snapshot, name)}))
            for name in ("running_adapters", "waiting_adapters")
        },
        cache_groups=tuple(group.plus(*others) for group, *others in groups),
        counters={name: sum(snapshot.counters[name] for snapshot in snapshots) for name in first.counters},
        finished={name: sum(snapshot.finished[name] for snapshot in snapshots) for name in first.finished},
        histograms={
            name: first.histograms[name].plus(*(snapshot.histograms[name] for snapshot in snapshots[1:]))
            for name in first.histograms
        },
    )
