"""A model that is served with kv_events_config tells routers what its prefix cache holds."""

import msgpack
import zmq

from jaxserve import LLM
from tests.api.conftest import SETTINGS
from tests.engine.event_replay import EventReplay, list_cached

TIMEOUT_MS = 20_000


def replay(socket) -> list[dict]:
    """Return all events that were published."""
    socket.send_multipart([b"", bytes(8)])
    events = []
    while True:
        assert socket.poll(TIMEOUT_MS), "the replay has no end"
        _, number, payload = socket.recv_multipart()
        if number == b"\xff" * 8:
            return events
        events += msgpack.unpackb(payload)[1]


def test_events_of_a_served_model_are_what_it_has_cached(tiny_path, tmp_path):
    places = {name: f"ipc://{tmp_path}/{name}" for name in ("endpoint", "replay_endpoint")}
    config = {"enable_kv_cache_events": True, **places}
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        with LLM(tiny_path, **SETTINGS, kv_events_config=config) as llm:
            socket.connect(places["replay_endpoint"])
            for length in (40, 60, 90):
                llm.generate({"prompt_token_ids": list(range(5, 5 + length))}, max_tokens=20)
            router, cache = EventReplay(), llm._client.replicas[0].loaded.engine.scheduler.cache
            while len(router.cached) < len(list_cached(cache)):  # the publisher's thread may be a moment behind
                router = EventReplay()
                router.apply(replay(socket))
            assert router.cached == list_cached(cache) and router.cached
