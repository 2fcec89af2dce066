"""Log lines of the server: their format and level, and one for each request, without a word of what was said in it.

With --log-format json every line on standard error is a JSON object: records, warnings, tracebacks, and what others
print there.
"""

import io
import json
import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import TextIO

log = logging.getLogger("server.access")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OWN_LOGGERS = ("jaxserve", "server")  # the packages whose level --log-level sets; others speak from warning on


def configure_logging(level: str = "info", form: str = "text") -> None:
    """Send log lines to standard error, unless whoever runs the server has set up logging already."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr) if form == "json" else _CurrentStderr()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)
    if form == "json":
        sys.stderr = StderrToLog(sys.stderr)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what a record has in `fields` are members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


class StderrToLog(io.TextIOBase):
    """Stands in for standard error: each line that is printed becomes a record."""

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._log = logging.getLogger("server.stderr")
        self._of_thread = threading.local()

    def write(self, text: str) -> int:
        mine = self._of_thread
        if getattr(mine, "is_logging", False):  # logging itself has something to complain about
            return self._original.write(text)
        *lines, mine.begun = (getattr(mine, "begun", "") + text).split("\n")
        mine.is_logging = True
        try:
            for line in filter(str.strip, lines):
                self._log.info("%s", line.rstrip())
        finally:
            mine.is_logging = False
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._original.fileno()


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment: a progress bar puts itself in its place."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None:
        logging.getLogger("server").critical("uncaught %s", kind.__name__, exc_info=(kind, error, traceback))


def report_startup_error(error: Exception) -> None:
    """Say why the start failed: a sentence for a person, or a record where lines are JSON."""
    if isinstance(sys.stderr, StderrToLog):
        logging.getLogger("server").critical("%s", error)
    else:
        print(f"jaxserve: {error}", file=sys.stderr)


def format_thread_stacks() -> str:
    """Where every thread is, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = sys._current_frames().items()
    return "\n".join(f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in stacks)


def sanitize(text: str) -> str:
    """Strangers' text for a line of ours: no control characters, and not too long."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


def log_access(
    client: str, method: str, path: str, status: int | None, sent_bytes: int, seconds: float, request_id: str | None
) -> None:
    """status None: the client left before there was an answer."""
    shown = "gone" if status is None else str(status)
    suffix = f" id={sanitize(request_id)}" if request_id else ""
    fields = {
        "client": client,
        "method": sanitize(method),
        "path": sanitize(path),
        "status": status,
        "bytes": sent_bytes,
        "seconds": round(seconds, 6),
        **({"request_id": sanitize(request_id)} if request_id else {}),
    }
    log.info(
        '%s "%s %s" %s %d bytes %.3f s%s',
        *(client, fields["method"], fields["path"], shown, sent_bytes, seconds, suffix),
        extra={"fields": fields},
    )
