"""Events over ZeroMQ: what a subscriber of vLLM's decodes, replays of what it has missed, and settings."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.cache.events import CacheCleared, PageRemoved, PagesStored, shorten
from jaxserve.cache.groups import GroupSize
from jaxserve.cache.prefix import NO_CONTEXT, CacheContext, hash_pages
from jaxserve.config import EngineConfig
from jaxserve.engine import event_publisher
from jaxserve.engine.event_publisher import EventPublisher, KVEventsConfig, offset_endpoint
from jaxserve.errors import BadConfig

TIMEOUT_MS = 20_000  # a test that waits so long has failed
TOKENS = tuple(range(8))
HASHES = tuple(hash_pages(TOKENS, 4))
END = (1 << 64) - 1


# The types with which subscribers of vLLM's decode (vllm/distributed/kv_events.py), written anew.
class Batch(msgspec.Struct, array_like=True):
    ts: float
    events: "list[BlockStored | BlockRemoved | AllBlocksCleared]"
    data_parallel_rank: int | None = None


class BlockStored(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    block_hashes: list[bytes | int]
    parent_block_hash: bytes | int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class BlockRemoved(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    block_hashes: list[bytes | int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    pass


DECODER = msgspec.msgpack.Decoder(Batch)


def stored(context: CacheContext = NO_CONTEXT) -> PagesStored:
    return PagesStored(0, GroupSize(num_pages=9), HASHES, None, TOKENS, context)


class Subscriber:
    """A router: it subscribes to a topic, and asks for what it has missed."""

    def __init__(self, publisher: EventPublisher, topic: str) -> None:
        self.context = zmq.Context()
        self.subscription = self.context.socket(zmq.SUB)
        self.subscription.connect(publisher.endpoint)
        self.subscription.setsockopt_string(zmq.SUBSCRIBE, topic)
        if publisher.replay_endpoint is not None:
            self.replays = self.context.socket(zmq.DEALER)
            self.replays.connect(publisher.replay_endpoint)

    def receive(self) -> tuple[bytes, int, Batch]:
        assert self.subscription.poll(TIMEOUT_MS), "no batch has come"
        topic, number, payload = self.subscription.recv_multipart()
        return topic, int.from_bytes(number, "big"), DECODER.decode(payload)

    def replay(self, first: int) -> dict[int, Batch]:
        self.replays.send_multipart([b"", first.to_bytes(8, "big")])
        batches = {}
        while True:
            assert self.replays.poll(TIMEOUT_MS), "the replay has no end"
            _, label, payload = self.replays.recv_multipart()
            if (number := int.from_bytes(label, "big")) == END:
                assert payload == b""
                return batches
            batches[number] = DECODER.decode(payload)

    def join(self, publisher: EventPublisher) -> int:
        """Publish until something arrives; return its number: those before it were missed."""
        while not self.subscription.poll(10):
            publisher.publish((CacheCleared(),))
        return self.receive()[1]


@pytest.fixture
def open_publisher() -> Iterator[Callable[..., EventPublisher]]:
    opened: list[EventPublisher] = []

    def open_one(rank: int = 0, **options: Any) -> EventPublisher:
        places = {"endpoint": "tcp://127.0.0.1:*", "replay_endpoint": "tcp://127.0.0.1:*"}
        opened.append(EventPublisher(KVEventsConfig(enable_kv_cache_events=True, **(places | options)), rank))
        return opened[-1]

    yield open_one
    for publisher in opened:
        publisher.close()


@pytest.fixture
def subscribe() -> Iterator[Callable[..., Subscriber]]:
    subscribers: list[Subscriber] = []

    def subscribe(publisher: EventPublisher, topic: str = "") -> Subscriber:
        subscribers.append(Subscriber(publisher, topic))
        return subscribers[-1]

    yield subscribe
    for subscriber in subscribers:
        subscriber.context.destroy(linger=0)


def test_a_subscriber_decodes_what_is_published(open_publisher, subscribe):
    publisher = open_publisher(topic="kv@pod@model")
    subscriber = subscribe(publisher, "kv@")
    first = subscriber.join(publisher)
    publisher.publish((stored(CacheContext(salt="salt", adapter="key", adapter_name="sql")), PageRemoved(0, HASHES[1])))
    while True:
        topic, number, batch = subscriber.receive()
        if batch.events != [AllBlocksCleared()]:
            break
    assert (topic, batch.data_parallel_rank) == (b"kv@pod@model", 0) and number > first and batch.ts > 1.7e9
    numbers = [shorten(page_hash) for page_hash in HASHES]
    keys: list[tuple[Any, ...] | None] = [("sql", "salt"), ("sql",)]
    assert batch.events == [
        BlockStored(numbers, None, list(TOKENS), 4, None, "GPU", "sql", keys, 0, "full_attention"),
        BlockRemoved(numbers[1:], "GPU", 0),
    ]


def test_what_was_missed_is_replayed(open_publisher, subscribe):
    publisher = open_publisher()
    publisher.publish((stored(),))
    subscriber = subscribe(publisher)
    first = subscriber.join(publisher)
    missed = {number: batch for number, batch in subscriber.replay(0).items() if number < first}
    assert list(missed) == list(range(first)) and isinstance(missed[0].events[0], BlockStored)
    assert all(number >= first for number in subscriber.replay(first))


def test_a_replay_has_the_newest_batches_only_and_a_bad_question_no_answer(open_publisher, subscribe):
    publisher = open_publisher(buffer_steps=3)
    subscriber = subscribe(publisher)
    last = subscriber.join(publisher)
    for _ in range(4):
        publisher.publish((CacheCleared(),))
    while last < publisher._next_number - 1:
        _, last, _ = subscriber.receive()
    subscriber.replays.send_multipart([b"too", b"many", b"parts"])
    subscriber.replays.send_multipart([b""])
    assert list(subscriber.replay(0)) == [last - 2, last - 1, last]
    assert subscriber.replay(last + 1) == {}


def test_a_salt_that_is_no_text_spoils_no_batch(open_publisher, subscribe):
    publisher = open_publisher()
    publisher.publish((stored(CacheContext(salt="a\ud800")),))
    subscriber = subscribe(publisher)
    subscriber.join(publisher)
    [event] = subscriber.replay(0)[0].events
    assert isinstance(event, BlockStored) and event.extra_keys == [("a?",), None]


def test_each_replica_has_ports_of_its_own(open_publisher, subscribe, tmp_path):
    places = {"endpoint": f"ipc://{tmp_path}/events", "replay_endpoint": f"ipc://{tmp_path}/replays"}
    publishers = [open_publisher(rank, **places) for rank in range(2)]
    subscribers = [subscribe(publisher) for publisher in publishers]
    for rank, (publisher, subscriber) in enumerate(zip(publishers, subscribers, strict=True)):
        subscriber.join(publisher)
        assert subscriber.replay(0)[0].data_parallel_rank == rank
    assert [publisher.endpoint.removeprefix(f"ipc://{tmp_path}/") for publisher in publishers] == [
        "events",
        "events_dp1",
    ]


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(0, 100))
def test_a_rank_is_added_to_the_port(port, rank):
    assert offset_endpoint(f"tcp://*:{port}", rank) == f"tcp://*:{port + rank}"
    assert offset_endpoint(f"tcp://[::1]:{port}", rank) == f"tcp://[::1]:{port + rank}"


def test_a_subscriber_may_listen_and_is_called(open_publisher):
    with zmq.Context() as context, context.socket(zmq.SUB) as listener:
        listener.linger = 0
        listener.setsockopt_string(zmq.SUBSCRIBE, "")
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        publisher = open_publisher(endpoint=f"tcp://127.0.0.1:{port}", replay_endpoint=None)
        while not listener.poll(10):
            publisher.publish((CacheCleared(),))
        assert DECODER.decode(listener.recv_multipart()[2]).events == [AllBlocksCleared()]
        publisher.close()


def test_an_engine_never_waits_and_a_dropped_batch_leaves_a_gap(open_publisher, subscribe, monkeypatch, caplog):
    started: list[Any] = []
    monkeypatch.setattr(event_publisher.threading.Thread, "start", lambda thread: started.append(thread))
    publisher = open_publisher(max_queue_size=2)
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            publisher.publish((CacheCleared(),))
    assert caplog.text.count("are dropped") == 1
    for thread in started:
        thread.start()
    subscriber = subscribe(publisher)
    subscriber.join(publisher)
    numbers = list(subscriber.replay(0))
    assert numbers[:2] == [0, 1] and not {2, 3, 4} & set(numbers)


def test_what_was_published_before_the_end_arrives(open_publisher, subscribe):
    publisher = open_publisher(replay_endpoint=None)
    subscriber = subscribe(publisher)
    subscriber.join(publisher)
    publisher.publish((stored(),))
    publisher.close()
    publisher.close()
    while True:
        if isinstance(subscriber.receive()[2].events[0], BlockStored):
            break


def test_an_address_that_is_in_use_is_refused(open_publisher):
    used = open_publisher().replay_endpoint
    with pytest.raises(BadConfig, match=r"replay_endpoint .*: Address already in use"):
        open_publisher(replay_endpoint=used)


def config_of(**options: Any) -> KVEventsConfig | None:
    return KVEventsConfig.from_config(EngineConfig(kv_events_config={"enable_kv_cache_events": True, **options}))


@pytest.mark.parametrize(
    "options", [None, {}, {"enable_kv_cache_events": False}, {"enable_kv_cache_events": True, "publisher": "null"}]
)
def test_without_a_publisher_there_is_nothing(options):
    assert KVEventsConfig.from_config(EngineConfig(kv_events_config=options)) is None


def test_the_defaults_are_those_of_vllm():
    defaults = {"hwm": 100_000, "buffer_steps": 10_000, "max_queue_size": 100_000, "topic": ""}
    assert config_of() == config_of(publisher=None, endpoint="tcp://*:5557", replay_endpoint=None, **defaults)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"odd": 1}, "kv_events_config has 'odd', which is not known; known are enable_kv_cache_events, publisher"),
        ({"enable_kv_cache_events": 1}, "enable_kv_cache_events must be true or false, got 1"),
        ({"publisher": "kafka"}, "publisher must be zmq or null, got 'kafka'"),
        ({"endpoint": None}, "endpoint must be a text, got None"),
        ({"endpoint": "*:5557"}, "must begin with tcp://, ipc:// or inproc://"),
        ({"replay_endpoint": "udp://*:1"}, "replay_endpoint 'udp://*:1' must begin with tcp://"),
        ({"replay_endpoint": 5558}, "replay_endpoint must be a text, got 5558"),
        ({"buffer_steps": -1}, "buffer_steps must be a whole number from 0 on, got -1"),
        ({"hwm": True}, "hwm must be a whole number from 0 on, got True"),
        ({"max_queue_size": 0}, "max_queue_size must be a whole number from 1 on, got 0"),
        ({"topic": 1}, "topic must be a text, got 1"),
    ],
)
def test_a_setting_that_cannot_work_is_named(options, message):
    with pytest.raises(BadConfig) as refused:
        config_of(**options)
    assert message in str(refused.value)


def test_settings_that_contradict_others_are_refused(monkeypatch: pytest.MonkeyPatch):
    options = {"enable_kv_cache_events": True, "endpoint": "tcp://*:*"}
    with pytest.raises(BadConfig, match="must end in a port number, to which data_parallel_size=2 adds the rank"):
        KVEventsConfig.from_config(EngineConfig(data_parallel_size=2, kv_events_config=options))
    with pytest.raises(BadConfig, match="set enable_prefix_caching"):
        KVEventsConfig.from_config(EngineConfig(enable_prefix_caching=False, kv_events_config=options))
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(BadConfig, match=r"needs pip install 'jaxserve\[events\]'"):
        config_of()
