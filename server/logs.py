"""Log lines of the HTTP side: one for each request, without a word of what was said in it."""

import logging
import sys

log = logging.getLogger("server.access")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup(level: str = "info") -> None:
    """Lines to standard error, for a process that is the server and nothing else."""
    if not logging.getLogger().handlers:
        logging.basicConfig(stream=sys.stderr, level=level.upper(), format=FORMAT)


def clean(text: str) -> str:
    """Strangers' text for a line of ours: no control characters, and not too long."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


def access(
    client: str, method: str, path: str, status: int | None, sent_bytes: int, seconds: float, label: str | None
) -> None:
    """status None: the client left before there was an answer."""
    shown = "gone" if status is None else str(status)
    request_id = f" id={clean(label)}" if label else ""
    log.info(
        '%s "%s %s" %s %d bytes %.3f s%s', client, clean(method), clean(path), shown, sent_bytes, seconds, request_id
    )
