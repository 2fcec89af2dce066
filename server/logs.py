"""Logging of the server: format, level, and the access log. Prompts and answers are never logged.

With --log-format json every line on standard error is a JSON object: records, warnings, tracebacks, and what libraries
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
OWN_LOGGERS = ("jaxserve", "server")  # packages whose level --log-level sets; all others log warnings and errors


def configure_logging(level: str = "info", log_format: str = "text") -> None:
    """Send log lines to standard error, unless logging has been configured already. log_format: "text" or "json"."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr) if log_format == "json" else _CurrentStderr()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(FORMAT))
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)
    if log_format == "json":
        sys.stderr = StderrToLog(sys.stderr)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


class JsonFormatter(logging.Formatter):
    """Formatter of a record as one line of JSON; the record's attribute `fields` adds members to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
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
    """A replacement of sys.stderr that logs each line that is printed to it."""

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._log = logging.getLogger("server.stderr")
        self._thread_state = threading.local()

    def write(self, text: str) -> int:
        """Log the lines that are complete; the rest waits for more from the same thread."""
        state = self._thread_state
        if getattr(state, "is_logging", False):  # printed by logging itself, about an error in a logging call
            return self._original.write(text)
        *lines, state.unfinished_line = (getattr(state, "unfinished_line", "") + text).split("\n")
        state.is_logging = True
        try:
            for line in filter(str.strip, lines):
                self._log.info("%s", line.rstrip())
        finally:
            state.is_logging = False
        return len(text)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the real standard error."""
        return self._original.fileno()


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """A handler that writes to what sys.stderr is at that moment: a progress bar replaces it while it runs."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None:
        logging.getLogger("server").critical("uncaught %s", kind.__name__, exc_info=(kind, error, traceback))


def report_startup_error(error: Exception) -> None:
    """Report why the start failed: as a sentence, or as a log record if the log is JSON."""
    if isinstance(sys.stderr, StderrToLog):
        logging.getLogger("server").critical("%s", error)
    else:
        print(f"jaxserve: {error}", file=sys.stderr)


def format_thread_stacks() -> str:
    """Format the stack of every thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = sys._current_frames().items()
    return "\n".join(f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in stacks)


def sanitize(text: str) -> str:
    """Make a client's text fit for a log line: at most 200 characters, control characters as question marks."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])


def log_access(
    client: str, method: str, path: str, status: int | None, sent_bytes: int, seconds: float, request_id: str | None
) -> None:
    """Log one request. status: None if the client disconnected before there was a reply."""
    status_text = "gone" if status is None else str(status)
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
        *(client, fields["method"], fields["path"], status_text, sent_bytes, seconds, suffix),
        extra={"fields": fields},
    )
