"""Builds the application of Ray Serve from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from server.lifecycle import EXIT_GRACE_S
from server.ray.ingress import Ingress
from server.ray.replica import EngineReplica
from server.ray.request_router import PrefixRequestRouter
from server.ray.settings import RaySettings, read_settings

ENGINE, INGRESS = "Engine", "Ingress"  # the names of the deployments, for `deployments` of a Serve config file
POLICY = "server.ray.autoscaling:choose_num_replicas"
DRAIN_POLL_S = 0.5  # between two looks at whether a replica that is to end has finished its requests
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 60.0
MAX_INGRESS_REQUESTS = 1 << 14  # of one ingress process: all that wait for replicas are there


def app(arguments: dict[str, Any]) -> Application:
    """Build the application for `serve run jaxserve.ray:app NAME=VALUE ...` and for Serve config files.

    arguments   flags of `jaxserve serve` without their dashes, and fields of ReplicaConfig

    Raises BadConfig for arguments that cannot work.
    """
    return build(read_settings(arguments))


def build(settings: RaySettings, engine_options: Mapping[str, Any] | None = None) -> Application:
    """Build the application.

    engine_options   options of a Serve deployment for the engines, over those that the settings make
    """
    drain_s = settings.server.drain_timeout_s
    options = {**make_engine_options(settings), **(engine_options or {})}
    engine = serve.deployment(name=ENGINE)(EngineReplica).options(**options)
    ingress = serve.deployment(name=INGRESS)(serve.ingress()(Ingress)).options(
        num_replicas=settings.replicas.ingress_replicas,
        max_ongoing_requests=MAX_INGRESS_REQUESTS,
        graceful_shutdown_timeout_s=drain_s + EXIT_GRACE_S,  # in which it tells clients of engines that have ended
        graceful_shutdown_wait_loop_s=DRAIN_POLL_S,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(engine.bind(settings), settings)


def make_engine_options(settings: RaySettings) -> dict[str, Any]:
    """Return the options of the engines' deployment. A fixed number of replicas is not autoscaled."""
    replicas = settings.replicas
    policy = AutoscalingPolicy(policy_function=POLICY)
    scaling = AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=settings.target_ongoing_requests,
        policy=policy,
    )
    router: dict[str, Any] = {"request_router_class": PrefixRequestRouter}
    is_fixed = replicas.min_replicas == replicas.max_replicas
    return {
        **({"num_replicas": replicas.max_replicas} if is_fixed else {"autoscaling_config": scaling}),
        "max_ongoing_requests": settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "ray_actor_options": settings.actor_options,
        "request_router_config": RequestRouterConfig(**router),
        "graceful_shutdown_timeout_s": settings.server.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
    }
