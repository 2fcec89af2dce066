"""Ends a start that is asked to stop, at once and without anything left behind."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # SIGINT raises KeyboardInterrupt, as everywhere
EX_OK = 0


@contextmanager
def exit_on_signal(clean_up: Callable[[], None]) -> Iterator[None]:
    """End the process with exit code 0 when it is asked to stop in this context, and its children with it.

    A compilation cannot be interrupted, so nothing is waited for: caches are written atomically.
    clean_up: called first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return

    def end(number: int, _: Any) -> None:
        print(f"jaxserve: {signal.Signals(number).name} before the server was ready: stopped", file=sys.stderr)
        clean_up()
        _kill_children()
        os._exit(EX_OK)

    previous = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
