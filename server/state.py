"""What every route is handed: the model, the settings, who is in, and the words that all replies share."""

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
from jaxserve import InvalidParameter
from server.body import BodyMeter
from server.config import ServerConfig
from server.errors import model_not_found
from server.generation import Generation, GenerationJob, RequestSlot, RequestSlots
from server.logs import sanitize
from server.metrics import EventLoopLag, HttpMetrics
from server.replies import ReplyMetadata, make_random_id, now_s
from server.schemas.checks import check_label
from server.schemas.common import GenerationRequest
from server.tool_metrics import ToolMetrics

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

log = logging.getLogger(__name__)

OWNED_BY = "jaxserve"


class ServerState:
    """One per server. Owns Visits and the HTTP numbers; everything else in it is settled at the start."""

    def __init__(self, llm: AsyncLLM, config: ServerConfig) -> None:
        self.llm = llm
        self.config = config
        self.slots = RequestSlots(llm)
        self.model_names = config.served_model_name or (llm.config.model,)
        self.created = now_s()
        self.fingerprint = compute_fingerprint(llm, config)
        self.body_meter = BodyMeter(config.max_inflight_body_bytes)
        self.http_metrics = HttpMetrics()
        self.tool_metrics = ToolMetrics(self.model_names[0])
        self.loop_lag = EventLoopLag()
        self.connections: set[socket] = set()  # those that are open; HttpServer's to change

    @property
    def is_ready(self) -> bool:
        """A new request could be served."""
        return self.llm.is_healthy and not self.slots.is_draining

    def check_model(self, name: str | None) -> None:
        """Raises a 404 that names the model, and those that are served."""
        if name and name not in self.model_names:
            raise model_not_found(name, self.model_names)

    def admit(self, num_generations: int, param: str = "n") -> RequestSlot:
        """Lets the current task's request in with `slots` generations, before its prompt is looked at.

        Raises ApiError, Overloaded or EngineStopped.
        """
        slot = self.slots.admit(num_generations, param)
        self.llm.admit(num_generations)
        return slot

    def start(
        self, slot: RequestSlot, request_id: str, jobs: Sequence[GenerationJob], cache_salt: str | None
    ) -> Generation:
        """Starts the generations. Their parameters may be logged, their prompts are not."""
        if self.config.enable_log_requests:
            sizes = [len(job.prompt_ids) for job in jobs]
            log.info("request %s: prompt tokens %s, %.2000s", sanitize(request_id), sizes[:10], jobs[0].params)
        return slot.start(self.llm, jobs, cache_salt)

    def check_headers(self, request: GenerationRequest) -> None:
        """The request headers that ask for something; where they win over a field, they take its place.

        Raises InvalidParameter.
        """
        headers = quart.request.headers
        for name in ("X-Request-Id", "X-Session-ID"):
            check_label(name, headers.get(name))
        priority = _parse_int(headers.get("X-Vllm-Priority"))
        if priority is not None:
            request.priority = priority
        rank = _parse_int(headers.get("X-data-parallel-rank"))
        if rank:
            raise InvalidParameter(f"X-data-parallel-rank must be 0: there is one replica, got {rank}.", None)

    def make_metadata(
        self, prefix: str, request: GenerationRequest, *, parses_reasoning: bool = False
    ) -> ReplyMetadata:
        """Taken when the request is accepted. reads_reasoning: where the model reasons, it is told from content."""
        config = self.config
        as_ids = request.return_tokens_as_token_ids
        return ReplyMetadata(
            id=f"{prefix}-{quart.request.headers.get('X-Request-Id') or request.request_id or make_random_id()}",
            created=now_s(),
            model=self.model_names[0],
            fingerprint=self.fingerprint,
            shows_cached_tokens=config.enable_prompt_tokens_details,
            tokens_as_ids=config.return_tokens_as_token_ids if as_ids is None else as_ids,
            forces_stream_usage=config.enable_force_include_usage,
            stream_interval=request.stream_interval or config.stream_interval,
            counts_reasoning=parses_reasoning and self.llm.reasoning_parser is not None,
        )

    def get_load_headers(self) -> dict[str, str]:
        """The endpoint-load-metrics header of a whole reply, for balancers that ask for it."""
        form = quart.request.headers.get("endpoint-load-metrics-format", "").upper()
        if form not in ("TEXT", "JSON"):
            return {}
        stats = self.llm.stats()
        usage = stats.pages_active / stats.pages_total if stats.pages_total else 0.0
        named = {"kv_cache_usage_perc": usage, "num_requests_waiting": stats.num_requests_waiting}
        if form == "JSON":
            return {"endpoint-load-metrics": "JSON " + orjson.dumps({"named_metrics": named}).decode()}
        return {"endpoint-load-metrics": "TEXT " + ", ".join(f"named_metrics.{key}={named[key]}" for key in named)}


def compute_fingerprint(llm: AsyncLLM, config: ServerConfig) -> str | None:
    """Constant while the server lives. There is one replica on one device, so full and hash are the same."""
    if config.fingerprint_mode == "none":
        return None
    if config.fingerprint_mode == "custom":
        return config.fingerprint_value
    settings = orjson.dumps(dataclasses.asdict(llm.config), option=orjson.OPT_SORT_KEYS, default=str)
    return f"{OWNED_BY}-{jaxserve.__version__}-{hashlib.sha256(settings).hexdigest()[:8]}"


def make_request_id() -> str:
    return uuid.uuid4().hex


def _parse_int(text: str | None) -> int | None:
    """A header's integer; None for anything else, which means the same as no header."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
