"""The publisher of the prefix cache's events: ZeroMQ sockets as vLLM's, and the threads that serve them.

Subscribers get messages of three parts: the topic, the number of the batch (8 bytes, big-endian, from 0 on) and the
batch in MessagePack, [seconds since 1970, [event, …], rank]. One that has missed some asks the replay socket (ROUTER)
with the first number that it wants, and gets messages of the number and the batch, the last one with the number -1 and
nothing. The newest `buffer_steps` batches are kept for that.

Nothing here can delay a step. The engine hands its events over as plain values; if the queue is full, the batch is
dropped, and the gap in the numbers tells subscribers, whom no replay can help then.

Needs no JAX, so that a command line can report a wrong setting without waiting for its import.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from jaxserve.cache.events import CacheEvent
from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig

if TYPE_CHECKING:
    import zmq

log = logging.getLogger(__name__)

NUMBER_BYTES = 8
END_OF_REPLAY = (-1).to_bytes(NUMBER_BYTES, "big", signed=True)
CLOSE_S = 1.0  # for batches that have not been sent when the engine ends


@dataclass(frozen=True, slots=True)
class KVEventsConfig:
    """The settings of the publisher, as vLLM has them (vllm/config/kv_events.py).

    enable_kv_cache_events   Whether there are events.
    publisher                zmq, or null for none; None: zmq if there are events.
    endpoint                 Where batches are published. One with * or :: and ipc and inproc are listened at; another
                             one is that of a subscriber that listens.
    replay_endpoint          Where replays are answered; None: nowhere.
    buffer_steps             The number of batches that are kept for replays.
    hwm                      The number of batches that ZeroMQ keeps for a slow subscriber; 0: any number.
    max_queue_size           The number of batches that wait to be published.
    topic                    The first part of each message, by which subscribers choose.
    """

    enable_kv_cache_events: bool = False
    publisher: Literal["zmq", "null"] | None = None
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    hwm: int = 100_000
    max_queue_size: int = 100_000
    topic: str = ""

    @classmethod
    def from_config(cls, config: EngineConfig) -> KVEventsConfig | None:
        """Return what the setting kv_events_config asks for; None if nothing is to be published.

        Raises BadConfig for unknown keys, values of the wrong type, and what cannot work on this machine.
        """
        options = config.kv_events_config or {}
        defaults = {field.name: field.default for field in fields(cls)}
        for name, value in options.items():
            if name not in defaults:
                raise BadConfig(f"kv_events_config has {name!r}, which is not known; known are {', '.join(defaults)}.")
            _check_value(name, value, defaults[name])
        events = cls(**options)
        if not events.enable_kv_cache_events or events.publisher == "null":
            return None
        if not config.enable_prefix_caching:
            raise BadConfig("kv_events_config: there are events of the prefix cache alone; set enable_prefix_caching.")
        for name in ("endpoint", "replay_endpoint"):
            _check_endpoint(name, getattr(events, name), config.data_parallel_size)
        try:
            import msgpack  # noqa: F401
            import zmq  # noqa: F401
        except ImportError as error:
            raise BadConfig(f"kv_events_config needs pip install 'jaxserve[events]': {error}.") from None
        return events


def _check_value(name: str, value: Any, default: Any) -> None:
    if name == "publisher":
        if value not in ("zmq", "null", None):
            raise BadConfig(f"kv_events_config: publisher must be zmq or null, got {value!r}.")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadConfig(f"kv_events_config: {name} must be true or false, got {value!r}.")
    elif isinstance(default, int):
        least = 1 if name == "max_queue_size" else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadConfig(f"kv_events_config: {name} must be a whole number from {least} on, got {value!r}.")
    elif not isinstance(value, str) and (value is not None or default is not None):
        raise BadConfig(f"kv_events_config: {name} must be a text, got {value!r}.")


def _check_endpoint(name: str, endpoint: str | None, num_replicas: int) -> None:
    if endpoint is None:
        return
    transport, separator, place = endpoint.partition("://")
    if not separator or not place or transport not in ("tcp", "ipc", "inproc"):
        raise BadConfig(f"kv_events_config: {name} {endpoint!r} must begin with tcp://, ipc:// or inproc://.")
    port = place.rpartition(":")[2]
    if transport == "tcp" and num_replicas > 1 and not port.isdecimal():
        raise BadConfig(
            f"kv_events_config: {name} {endpoint!r} must end in a port number, to which data_parallel_size="
            f"{num_replicas} adds the rank of each replica."
        )


def offset_endpoint(endpoint: str, rank: int) -> str:
    """Return the endpoint of a replica: its rank is added to the port of tcp, and to the name of others as _dpN."""
    if not rank:
        return endpoint
    if not endpoint.startswith("tcp://"):
        return f"{endpoint}_dp{rank}"
    place, _, port = endpoint.rpartition(":")
    return f"{place}:{int(port) + rank}"


class EventPublisher:
    """The sockets and threads that publish the events of one replica's prefix cache.

    endpoint          Where batches are published, with the port that the system has chosen for a `*`.
    replay_endpoint   Where replays are answered, likewise; None: nowhere.

    One thread alone calls `publish`, and any other `close` after it has stopped.
    """

    def __init__(self, config: KVEventsConfig, rank: int) -> None:
        """Open the sockets and start the threads. rank: the number of the replica.

        Raises BadConfig if an endpoint cannot be used.
        """
        import zmq

        self._rank, self._topic = rank, config.topic.encode()
        self._queue: queue.Queue[tuple[int, float, tuple[CacheEvent, ...]] | None] = queue.Queue(config.max_queue_size)
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        self._kept_lock = threading.Lock()
        self._next_number = self._num_dropped = 0
        self._context, self._is_closed = zmq.Context(), False
        try:
            self._sender = self._open(zmq.PUB, config.hwm, "endpoint", config.endpoint)
            self.endpoint = self._sender.getsockopt_string(zmq.LAST_ENDPOINT)
            self._replayer, self.replay_endpoint = None, None
            if config.replay_endpoint is not None:
                # A whole replay fits, whose messages ZeroMQ would drop otherwise.
                self._replayer = self._open(
                    zmq.ROUTER, config.buffer_steps + 1, "replay_endpoint", config.replay_endpoint
                )
                self.replay_endpoint = self._replayer.getsockopt_string(zmq.LAST_ENDPOINT)
        except BadConfig:
            self._context.destroy(linger=0)
            raise
        self._threads = [threading.Thread(target=self._send, name=f"kv-events-{rank}", daemon=True)]
        if self._replayer is not None:
            answer = threading.Thread(target=self._answer, args=(self._replayer,), name=f"kv-replays-{rank}")
            answer.daemon = True
            self._threads.append(answer)
        for thread in self._threads:
            thread.start()

    def publish(self, events: tuple[CacheEvent, ...]) -> None:
        """Hand over the events of a step, to be published as one batch. Never waits."""
        number, self._next_number = self._next_number, self._next_number + 1
        try:
            self._queue.put_nowait((number, time.time(), events))
        except queue.Full:
            self._num_dropped += 1
            if self._num_dropped == 1:
                log.warning("events of the prefix cache are dropped, as max_queue_size batches wait to be published")

    def close(self) -> None:
        """Publish what waits, for at most CLOSE_S, and close the sockets. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except queue.Full:
            log.warning("events of the prefix cache are lost: none was published for %g s", CLOSE_S)
            return
        self._threads[0].join(CLOSE_S)
        if not self._threads[0].is_alive():
            self._context.term()  # ends the thread of replays, and waits for what is being sent
            for thread in self._threads:
                thread.join(CLOSE_S)

    def _open(self, kind: int, high_water_mark: int, name: str, endpoint: str) -> zmq.Socket[bytes]:
        import zmq

        address = offset_endpoint(endpoint, self._rank)
        socket = self._context.socket(kind)
        socket.set_hwm(high_water_mark)
        socket.setsockopt(zmq.LINGER, int(1000 * CLOSE_S))
        try:
            if kind == zmq.ROUTER or _is_listened_at(endpoint):
                socket.bind(address)
            else:
                socket.connect(address)
        except zmq.ZMQError as error:
            raise BadConfig(f"kv_events_config: {name} {address!r} cannot be used: {error}.") from None
        return socket

    def _send(self) -> None:
        """Publish batches until `close`; runs in a thread."""
        import msgpack

        packer = msgpack.Packer(unicode_errors="replace")  # of salts, which may hold half of a surrogate pair
        while (batch := self._queue.get()) is not None:
            number, seconds, events = batch
            maps = [event.to_map() for event in events]
            payload = packer.pack([seconds, maps, self._rank])
            assert payload is not None, "it packs one batch after another"
            label = number.to_bytes(NUMBER_BYTES, "big")
            with self._kept_lock:  # before it is sent: whatever a subscriber knows of can be replayed
                self._kept.append((label, payload))
            self._sender.send_multipart((self._topic, label, payload))
        self._sender.close()

    def _answer(self, replayer: zmq.Socket[bytes]) -> None:
        """Answer replays until the context ends; runs in a thread."""
        import zmq

        with replayer:
            try:
                while True:
                    self._replay(replayer, replayer.recv_multipart())
            except zmq.ContextTerminated:
                pass

    def _replay(self, replayer: zmq.Socket[bytes], request: list[bytes]) -> None:
        """Send the kept batches from a number on; a request is the client, an empty part and the number."""
        if len(request) != 3:
            log.debug("a replay of events was asked for in %d parts instead of 3", len(request))
            return
        client, _, first = request
        first_number = int.from_bytes(first, "big")
        with self._kept_lock:
            kept = tuple(self._kept)
        for label, payload in kept:
            if int.from_bytes(label, "big") >= first_number:
                replayer.send_multipart((client, b"", label, payload))
        replayer.send_multipart((client, b"", END_OF_REPLAY, b""))


def _is_listened_at(endpoint: str) -> bool:
    """Whether the publisher listens at an endpoint, instead of calling a subscriber that does; vLLM's rule."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))
