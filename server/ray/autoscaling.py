"""How many replicas there should be: by the requests that they have, and by those that wait inside of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

    from jaxserve import StatsSnapshot

WAITING = "num_requests_waiting"


def make_autoscaling_stats(stats: StatsSnapshot) -> dict[str, float]:
    """Return what a replica reports to the autoscaler."""
    return {WAITING: float(stats.num_requests_waiting)}


def choose_num_replicas(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return the number of replicas that the load asks for, as a policy of Ray Serve.

    Serve keeps it between the limits, and applies its delays and factors to it.
    """
    assert context.config is not None
    waiting = (context.aggregated_metrics or {}).get(WAITING, {})
    target = context.config.get_target_ongoing_requests()
    num_replicas = compute_num_replicas(
        context.total_num_requests, sum(waiting.values()), context.current_num_replicas, target
    )
    return num_replicas, {}


def compute_num_replicas(num_requests: float, num_waiting: float, num_replicas: int, target: float) -> float:
    """Return how many replicas have enough to do with these requests.

    Long requests fill the key-value cache of a replica before there are `target` of them: then some wait inside of it,
    and as many more replicas are needed as these would keep busy.

    num_requests   those that run or wait anywhere
    num_waiting    sequences that wait in replicas for rows or pages
    num_replicas   how many there are; 0: Serve itself starts the first one
    target         the number of requests with which a replica has enough to do
    """
    by_requests = num_requests / target
    return max(by_requests, num_replicas + num_waiting / target) if num_waiting else by_requests
