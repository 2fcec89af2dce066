"""An event loop with a clock of its own: when nothing is ready, time jumps to the next timer."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.simulation.virtual_network import Listener, ServerSocket, Transport
from tests.simulation.virtual_threads import VirtualThreads


class Deadlock(AssertionError):
    """Nothing is ready, and no timer will ever fire."""


class _Selector:
    """A selector that never waits. The loop calls it once between two turns."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> tuple[()]:
        self._loop.after_turn()
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        self._loop.now_s += timeout
        return ()


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop in virtual time, with virtual threads and sockets.

    now_s        The virtual time, which begins at 1000 s.
    threads      The virtual threads.
    after_turn   Called after each turn of the loop.
    errors       What was given to the loop's exception handler.
    """

    def __init__(self, after_turn: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.after_turn = after_turn
        self.errors: list[dict[str, Any]] = []
        self._clock_resolution = 1e-7
        self._selector = _Selector(self)
        self._signal_handlers: dict[int, Callable[[], None]] = {}
        self.threads = VirtualThreads(self)
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self.now_s

    def _process_events(self, event_list: tuple[()]) -> None:
        """There are no events besides timers."""

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Run a function in a virtual thread of its own; it may block."""
        future = self.create_future()

        def finish(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                set_outcome(outcome)

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_soon(finish, future.set_exception, error)
            else:
                self.call_soon(finish, future.set_result, result)

        self.threads.start(work)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    async def sock_accept(self, sock: Any) -> tuple[Any, Any]:
        """Return the next connection of a listener, and the client's address."""
        listener: Listener = sock
        client = await listener.accept()
        return client, client.address

    async def connect_accepted_socket(
        self, protocol_factory: Callable[[], Any], sock: Any, *, ssl: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        """Return the transport of an accepted connection, and its protocol."""
        assert ssl is None
        client: ServerSocket = sock
        protocol = protocol_factory()
        transport: Transport = client.transport
        transport.attach(protocol)
        return transport, protocol

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        self._signal_handlers[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._signal_handlers.pop(sig, None) is not None

    def send_signal(self, sig: int) -> bool:
        """Let the process get a signal; return whether it is handled."""
        handler = self._signal_handlers.get(sig)
        if handler is not None:
            self.call_soon(handler)
        return handler is not None
