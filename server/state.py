"""The state that every route is given: the model, the settings, the admitted requests and the metrics."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import uuid
from collections.abc import Sequence
from socket import socket
from typing import TYPE_CHECKING

import orjson
import quart

import jaxserve
from jaxserve import BadConfig
from server.auth import ApiKeyAuth
from server.body import BodyMeter
from server.config import ServerConfig
from server.control import ServerControl
from server.errors import model_not_found
from server.generation import Generation
from server.logs import sanitize
from server.metrics import EventLoopLag, HttpMetrics
from server.pooling_metrics import PoolingMetrics
from server.replies import ReplyMetadata, make_random_id, now_s
from server.request_reader import RequestReader
from server.request_slots import RequestSlot, RequestSlots
from server.responses.store import ResponseStore
from server.schemas.checks import check_label
from server.schemas.generation import GenerationRequest
from server.schemas.generative_scoring import GenerativeScoringRequest
from server.schemas.pooling import PooledRequest
from server.tool_metrics import ToolMetrics
from server.tracing import RequestTracer

if TYPE_CHECKING:
    from jaxserve import Adapter, AsyncLLM, Ready

log = logging.getLogger(__name__)

OWNED_BY = "jaxserve"
RANK_HEADER = "X-data-parallel-rank"


class ServerState:
    """State of one server, shared by its routes.

    Everything is fixed at the start but `slots` (the admitted requests), `responses`, `body_meter`, the metrics and
    `connections`.

    llm              the model that is served
    config           settings of the HTTP side
    auth             the check of API keys
    slots            the admitted requests, and how many generations they may have in all
    responses        the responses that are kept for their callers
    control          pauses the server and ends requests by their ids, in dev mode
    model_names      names under which the model is served; replies carry the first
    created          Unix time of the start, in seconds, as /v1/models tells it
    fingerprint      the system_fingerprint of replies
    body_meter       bytes of requests in memory
    reader           reads requests, large ones in a thread
    tracer           sends a span for each request; None: nobody wants them
    http_metrics     counts of requests and replies
    tool_metrics     counts of parses for tool calls
    pooling_metrics  counts of requests that pool
    loop_lag         delay of the event loop
    connections      open sockets; only HttpServer changes them
    """

    def __init__(self, llm: AsyncLLM, config: ServerConfig) -> None:
        """Make the state. Raises BadConfig if an adapter has a name of the model."""
        self.llm = llm
        self.config = config
        self.slots = RequestSlots(llm, config)
        self.responses = ResponseStore(config)
        self.control = ServerControl(llm, self.slots)
        self.auth = ApiKeyAuth(config)
        self.model_names = config.served_model_name or (llm.config.model,)
        for loaded in llm.adapters:
            if loaded.module.name in self.model_names:
                raise BadConfig(f"lora_modules has an adapter {loaded.module.name!r}, which is a name of the model.")
        self.created = now_s()
        self.fingerprint = compute_fingerprint(llm, config)
        self.body_meter = BodyMeter(config.max_inflight_body_bytes)
        self.reader = RequestReader(config, self.body_meter, self.auth.identify)
        self.tracer = RequestTracer.from_config(config, self.model_names[0])
        self.http_metrics = HttpMetrics()
        self.tool_metrics = ToolMetrics(self.model_names[0])
        self.pooling_metrics = PoolingMetrics(self.model_names[0])
        self.loop_lag = EventLoopLag()
        self.connections: set[socket] = set()

    @property
    def is_ready(self) -> bool:
        """Whether a new request could be served."""
        return self.llm.is_healthy and not self.slots.is_draining and self.control.mode is None

    def check_model(self, name: str | None) -> Adapter | None:
        """Check that `name` is served, and return the adapter of this name, None for the model itself.

        None and the empty string stand for the default model.

        Raises ApiError (404) if it is not, naming those that are.
        """
        if not name or name in self.model_names:
            return None
        adapter = self.llm.find_adapter(name)
        if adapter is None:
            adapters = (loaded.module.name for loaded in self.llm.adapters)
            raise model_not_found(name, (*self.model_names, *adapters))
        return adapter

    def admit(self, num_generations: int, param: str = "n") -> RequestSlot:
        """Admit the request of the current task with `num_generations` generations, before its prompt is read.

        param: the field that is blamed if there are more generations than the queue could ever hold.

        Raises ApiError if the server is shutting down (503) or the caller has too many requests (429), Overloaded if
        the queue is full, InvalidParameter if the request could never fit, EngineStopped if the engine is not running.
        """
        trace = None if self.tracer is None else self.tracer.begin(quart.request.headers)
        return self.slots.admit(num_generations, param, self.auth.identify(quart.request), trace)

    def get_cache_salt(self, request: GenerationRequest | PooledRequest | GenerativeScoringRequest) -> str | None:
        """Return the salt of cached prefixes: the client's, and with --isolate-cache-per-key its key, too.

        The client's has no slash, so that no two pairs give the same.
        """
        if not self.config.isolate_cache_per_key:
            return request.cache_salt
        return f"{self.auth.identify(quart.request)}/{request.cache_salt or ''}"

    def start(self, slot: RequestSlot, request_id: str, jobs: Sequence[Ready], constraint_field: str) -> Generation:
        """Start the generations of an admitted request. Their parameters may be logged, their prompts never are.

        constraint_field: the request's field of its constraint, which errors about it name.

        Raises ApiError if the request was ended while its prompt was prepared.
        """
        if self.config.enable_log_requests:
            sizes = [len(job.prompt_ids) for job in jobs]
            log.info("request %s: prompt tokens %s, %.2000s", sanitize(request_id), sizes[:10], jobs[0].params)
        return slot.start(self.llm, request_id, jobs, constraint_field)

    def check_headers(self, request: GenerationRequest | PooledRequest | GenerativeScoringRequest) -> int | None:
        """Check the request headers that stand for fields; X-Vllm-Priority replaces `request.priority`.

        Returns the replica that X-data-parallel-rank asks for, None for any.

        Raises InvalidParameter if an id is too long, or there is no such replica.
        """
        headers = quart.request.headers
        for name in ("X-Request-Id", "X-Session-ID"):
            check_label(name, headers.get(name))
        priority = _parse_int(headers.get("X-Vllm-Priority"))
        if priority is not None:
            request.priority = priority
        rank = _parse_int(headers.get(RANK_HEADER))
        if rank is not None:
            self.llm.check_data_parallel_rank(rank, RANK_HEADER)
        return rank

    def make_metadata(
        self,
        slot: RequestSlot,
        prefix: str,
        request: GenerationRequest,
        adapter: Adapter | None = None,
        *,
        base_id: str | None = None,
        parses_reasoning: bool = False,
    ) -> ReplyMetadata:
        """Make the fields that the reply has in common with all its chunks, when the request is accepted.

        slot: gets the id, by which the request may be aborted. prefix: beginning of the id, like "chatcmpl-".
        adapter: the request's, whose name replies carry. base_id: the rest of the id; None: the client's, or random.
        parses_reasoning: the endpoint separates reasoning from content, for models that reason.
        """
        config = self.config
        as_ids = request.return_tokens_as_token_ids
        return ReplyMetadata(
            id=self.make_reply_id(slot, prefix, request.request_id, base_id),
            created=now_s(),
            model=self.model_names[0] if adapter is None else adapter.name,
            fingerprint=self.fingerprint,
            shows_cached_tokens=config.enable_prompt_tokens_details,
            tokens_as_ids=config.return_tokens_as_token_ids if as_ids is None else as_ids,
            forces_stream_usage=config.enable_force_include_usage,
            stream_interval=request.stream_interval or config.stream_interval,
            shows_metrics=config.enable_per_request_metrics,
            counts_reasoning=parses_reasoning and self.llm.reasoning_parser is not None,
        )

    def make_reply_id(self, slot: RequestSlot, prefix: str, request_id: str | None, base_id: str | None = None) -> str:
        """Make the id of a reply, and tell the slot.

        request_id: the body's; the header X-Request-Id wins. base_id: what has been chosen instead of both.
        """
        base = base_id or quart.request.headers.get("X-Request-Id") or request_id or make_random_id()
        slot.set_id(prefix, base)
        return prefix + base

    def get_load_headers(self) -> dict[str, str]:
        """Return the endpoint-load-metrics header (ORCA) of a whole reply, if the load balancer asked for it."""
        form = quart.request.headers.get("endpoint-load-metrics-format", "").upper()
        if form not in ("TEXT", "JSON"):
            return {}
        stats = self.llm.stats()
        values = {"kv_cache_usage_perc": stats.kv_cache_usage, "num_requests_waiting": stats.num_requests_waiting}
        if form == "JSON":
            return {"endpoint-load-metrics": "JSON " + orjson.dumps({"named_metrics": values}).decode()}
        return {"endpoint-load-metrics": "TEXT " + ", ".join(f"named_metrics.{key}={values[key]}" for key in values)}


def compute_fingerprint(llm: AsyncLLM, config: ServerConfig) -> str | None:
    """Compute the system_fingerprint, which is constant while the server runs; None: replies have none.

    It tells nothing of the devices, so the modes "full" and "hash" give the same.
    """
    if config.fingerprint_mode == "none":
        return None
    if config.fingerprint_mode == "custom":
        return config.fingerprint_value
    settings = orjson.dumps(dataclasses.asdict(llm.config), option=orjson.OPT_SORT_KEYS, default=str)
    return f"{OWNED_BY}-{jaxserve.__version__}-{hashlib.sha256(settings).hexdigest()[:8]}"


def make_request_id() -> str:
    """Make a random id for an X-Request-Id header: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def _parse_int(text: str | None) -> int | None:
    """Parse a header's integer; None for anything else, which means the same as no header."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
