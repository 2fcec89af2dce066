"""Chat templates that come with a request: compiled and rendered in a worker process, which may be killed."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.faults import Faults
from jaxserve.text.chat_template import ChatTemplate
from jaxserve.workers.pool import TaskFailed, TaskLimits, WorkerPool
from jaxserve.workers.process import TaskKilled

KIB = 1 << 10
MAX_SOURCE_BYTES = 256 * KIB
MODULE = "jaxserve.text.request_template"


def create_pool(faults: Faults | None = None) -> WorkerPool:
    """Return workers that are ready to render."""
    return WorkerPool((MODULE,), faults=faults)


def render_in_worker(
    pool: WorkerPool,
    source: str,
    special_tokens: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    content_format: str,
    max_chars: int,
    timeout_s: float,
) -> str:
    """Return `ChatTemplate.render(messages, **options)`, computed in a worker. Blocks until one is free.

    Raises InvalidParameter if the template is too large, fails, or takes too much time or memory, GenerationFailed if
    the worker was lost by no fault of it.
    """
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        raise InvalidParameter(f"chat_template is larger than {MAX_SOURCE_BYTES} bytes.", "chat_template")
    settings = {"content_format": content_format, "max_chars": max_chars}
    data = {"arguments": [source, special_tokens], "settings": settings, "messages": messages, "options": options}
    try:
        return pool.run(f"{MODULE}:render", data, TaskLimits(timeout_s))
    except TaskKilled as killed:
        raise InvalidParameter(f"The chat template was stopped: {killed}.", "chat_template") from None
    except TaskFailed:
        raise InvalidParameter("The chat template failed: it needs too much memory.", "chat_template") from None


def render(data: dict[str, Any]) -> str:
    """Render in the worker."""
    return ChatTemplate(*data["arguments"], **data["settings"]).render(data["messages"], **data["options"])
