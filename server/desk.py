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
from server.errors import not_found
from server.logs import clean
from server.metrics import HttpMetrics, LoopLag
from server.replies import Frame, fresh_base, now_s
from server.runs import Job, Run, Visit, Visits
from server.schemas.checks import check_label
from server.schemas.common import GenerationRequest
from server.tool_metrics import ToolMetrics

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

log = logging.getLogger(__name__)

OWNER = "jaxserve"


class Desk:
    """One per server. Owns Visits and the HTTP numbers; everything else in it is settled at the start."""

    def __init__(self, llm: AsyncLLM, config: ServerConfig) -> None:
        self.llm = llm
        self.config = config
        self.visits = Visits(llm)
        self.names = config.served_model_name or (llm.config.model,)
        self.created = now_s()
        self.fingerprint = fingerprint(llm, config)
        self.bodies = BodyMeter(config.max_inflight_body_bytes)
        self.http = HttpMetrics()
        self.tools = ToolMetrics(self.names[0])
        self.lag = LoopLag()
        self.connections: set[socket] = set()  # those that are open; HttpServer's to change

    @property
    def is_ready(self) -> bool:
        """A new request could be served."""
        return self.llm.is_healthy and not self.visits.is_draining

    def check_model(self, name: str | None) -> None:
        """Raises a 404 that names the model, and those that are served."""
        if name and name not in self.names:
            raise not_found(name, self.names)

    def admit(self, slots: int, param: str = "n") -> Visit:
        """Lets the current task's request in with `slots` generations, before its prompt is looked at.

        Raises Refusal, Overloaded or EngineStopped.
        """
        visit = self.visits.admit(slots, param)
        self.llm.admit(slots)
        return visit

    def begin(self, visit: Visit, label: str, jobs: Sequence[Job], cache_salt: str | None) -> Run:
        """Starts the generations. Their parameters may be logged, their prompts are not."""
        if self.config.enable_log_requests:
            sizes = [len(job.prompt_ids) for job in jobs]
            log.info("request %s: prompt tokens %s, %.2000s", clean(label), sizes[:10], jobs[0].params)
        return visit.begin(self.llm, jobs, cache_salt)

    def check_headers(self, request: GenerationRequest) -> None:
        """The request headers that ask for something; where they win over a field, they take its place.

        Raises InvalidParameter.
        """
        headers = quart.request.headers
        for name in ("X-Request-Id", "X-Session-ID"):
            check_label(name, headers.get(name))
        priority = _integer(headers.get("X-Vllm-Priority"))
        if priority is not None:
            request.priority = priority
        rank = _integer(headers.get("X-data-parallel-rank"))
        if rank:
            raise InvalidParameter(f"X-data-parallel-rank must be 0: there is one replica, got {rank}.", None)

    def frame(self, prefix: str, request: GenerationRequest, *, reads_reasoning: bool = False) -> Frame:
        """Taken when the request is accepted. reads_reasoning: where the model reasons, it is told from content."""
        config = self.config
        as_ids = request.return_tokens_as_token_ids
        return Frame(
            id=f"{prefix}-{quart.request.headers.get('X-Request-Id') or request.request_id or fresh_base()}",
            created=now_s(),
            model=self.names[0],
            fingerprint=self.fingerprint,
            shows_cached=config.enable_prompt_tokens_details,
            tokens_as_ids=config.return_tokens_as_token_ids if as_ids is None else as_ids,
            forces_usage=config.enable_force_include_usage,
            interval=request.stream_interval or config.stream_interval,
            counts_reasoning=reads_reasoning and self.llm.reasoning_parser is not None,
        )

    def load_headers(self) -> dict[str, str]:
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


def fingerprint(llm: AsyncLLM, config: ServerConfig) -> str | None:
    """Constant while the server lives. There is one replica on one device, so full and hash are the same."""
    if config.fingerprint_mode == "none":
        return None
    if config.fingerprint_mode == "custom":
        return config.fingerprint_value
    settings = orjson.dumps(dataclasses.asdict(llm.config), option=orjson.OPT_SORT_KEYS, default=str)
    return f"{OWNER}-{jaxserve.__version__}-{hashlib.sha256(settings).hexdigest()[:8]}"


def fresh_id() -> str:
    return uuid.uuid4().hex


def _integer(text: str | None) -> int | None:
    """A header's integer; None for anything else, which means the same as no header."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
