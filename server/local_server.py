"""A server for this process alone, on a Unix socket in a directory that only its user can enter.

`jaxserve run` uses it, so that the same templates, defaults, checks and errors hold as for any client.
"""

import asyncio
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from jaxserve import AsyncLLM
from server import lifecycle
from server.app import create_app
from server.config import ServerConfig
from server.listen import listen

START_TIMEOUT_S = 30.0


class LocalServer:
    """A context in which `llm` is served from a thread of its own; at its end the model is closed."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._folder = tempfile.TemporaryDirectory(prefix="jaxserve-")
        self._socket = Path(self._folder.name) / "socket"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="jaxserve-local-server")
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The URL for a chat client."""
        return f"unix:{self._socket}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._folder.cleanup()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = ServerConfig(uds=str(self._socket), drain_timeout_s=0, disable_access_log=True)
        listeners = listen(config)
        for listener in listeners:
            listener.listen()  # from now on connections wait for the server, and are not refused
        self._started.set()
        await lifecycle.serve(create_app(self._llm, config), config, listeners, self._stop)
