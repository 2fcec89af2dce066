"""PrefixRequestRouter: sends a request to the replica that has the beginning of its prompt, unless others are idle."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from jaxserve import PrefixRouter
from server.ray.forwarding import ForwardedRequest

REQUEST_TOKENS = 256  # that a request of a replica is expected to need still; Serve counts requests, not tokens


class PrefixRequestRouter(RequestRouter):
    """A request router of Ray Serve. Each ingress process has one; they choose alike (jaxserve/router.py)."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Begin with nothing served. Serve calls it once, after the constructor."""
        self._prefixes = PrefixRouter[str]()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas in the order in which they are to be tried; Serve skips those that are full."""
        request = _find_request(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # if all are full, wait before the next try
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        lengths = {name: self.replica_queue_len_cache.get(replica.replica_id) for name, replica in by_name.items()}
        names = order_replicas(self._prefixes, request, {name: length or 0 for name, length in lengths.items()})
        return [[by_name[name]] for name in names]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Take note of the replica that a request went to."""
        self._prefixes.record(_find_request(pending_request).prompt, replica_id.unique_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget a replica."""
        super().on_replica_actor_died(replica_id)
        self._forget_others()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take note of the replicas that there are."""
        super().update_replicas(replicas)
        self._forget_others()

    def _forget_others(self) -> None:
        self._prefixes.retain({replica_id.unique_id for replica_id in self.curr_replicas})


def order_replicas(prefixes: PrefixRouter[str], request: ForwardedRequest, lengths: dict[str, int]) -> list[str]:
    """Return the names of replicas, first the one that would begin a request soonest, last those that it avoids.

    lengths   the requests that each replica has
    """
    loads = {name: REQUEST_TOKENS * length for name, length in lengths.items()}
    return sorted(prefixes.rank(request.prompt, loads), key=request.avoided.__contains__)


def _find_request(pending: PendingRequest | None) -> ForwardedRequest:
    """Return the request of a call; other calls are as one without a prompt."""
    found = next((value for value in pending.args if isinstance(value, ForwardedRequest)), None) if pending else None
    return found or ForwardedRequest({}, b"")
