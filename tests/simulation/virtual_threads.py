"""Threads in virtual time. They are threads of the system, of which one runs at a time: a virtual thread runs until it
blocks in one of the functions here, and then the event loop goes on.

Where a thread blocks, and for how long, follows from the seed; so the same seed gives the same interleaving.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tests.simulation.virtual_loop import VirtualLoop

HANG_S = 60.0  # of real time, after which a virtual thread is taken to block the simulation
MAX_IDLE_POLLS = 2000  # of a queue in a row, between which no thread has slept


class BlockedLoop(AssertionError):
    """The event loop's own thread has called something that blocks."""


class Spinning(AssertionError):
    """A thread polls a queue and never does anything."""


class _Killed(BaseException):
    """The process of a virtual thread has ended."""


class VirtualThread:
    """The part of threading.Thread that is used. It begins when the loop has its next turn."""

    def __init__(self, threads: VirtualThreads, target: Callable[..., Any], name: str = "") -> None:
        self._threads, self._target, self.name = threads, target, name
        self._turn = threading.Lock()
        self._turn.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._has_begun = self._is_killed = False
        self._waiters: list[VirtualThread] = []
        self.error: BaseException | None = None
        self.is_done = False
        self.num_idle_polls = 0

    def start(self) -> None:
        """Begin at the loop's next turn."""
        self._threads.alive[self] = None
        self._has_begun = True
        self._thread.start()
        self._threads.loop.call_soon(self.resume)

    def is_alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._has_begun and not self.is_done

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        if not self.is_done:
            me = self._threads.current_or_fail()
            self._waiters.append(me)
            self._threads.block(timeout)

    def resume(self) -> None:
        """Let it run until it blocks. Called by the loop."""
        if not self.is_done:
            self._threads.switch_to(self)

    def kill(self) -> None:
        """End it where it blocks."""
        self._is_killed = True
        self.resume()

    def wait_for_turn(self) -> None:
        """Wait until the loop lets it run. Called on the thread itself."""
        self._turn.acquire()
        if self._is_killed:
            raise _Killed

    def give_turn(self) -> None:
        """Let it run. Called by the loop."""
        self._turn.release()

    def _run(self) -> None:
        try:
            self.wait_for_turn()
            self._target()
        except (_Killed, SystemExit):
            pass
        except BaseException as error:
            self.error = None if self._is_killed else error
        finally:
            self.is_done = True
            self._threads.alive.pop(self, None)
            for waiter in self._waiters:
                self._threads.loop.call_soon(waiter.resume)
            self._threads.return_turn()


class Durations:
    """Random durations that follow from a seed and the moment alone, so that dropping an action changes few others."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self._seed, self._loop = seed, loop

    def uniform(self, shortest: float, longest: float) -> float:
        """Return a duration between two."""
        moment = int(self._loop.time() * 1e7)
        return shortest + (longest - shortest) * (hash((self._seed, moment, 5)) % 1_000_003) / 1_000_003


class VirtualThreads:
    """The virtual threads of a simulation.

    rng        Decides durations.
    current    The thread that runs; None: the event loop's.
    alive      Those that have begun and not ended.
    on_block   Called on the loop's thread whenever a thread has blocked or ended.
    on_poll    Called on a thread whenever it looks into a queue.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.rng = loop, Durations(0, loop)
        self.current: VirtualThread | None = None
        self.alive: dict[VirtualThread, None] = {}
        self.on_block: Callable[[], None] = lambda: None
        self.on_poll: Callable[[], None] = lambda: None
        self._returned = threading.Lock()
        self._returned.acquire()

    def start(self, target: Callable[..., Any]) -> VirtualThread:
        """Start a thread."""
        thread = VirtualThread(self, target)
        thread.start()
        return thread

    def current_or_fail(self) -> VirtualThread:
        """Return the virtual thread that runs. Raises BlockedLoop if it is the event loop."""
        if self.current is None:
            raise BlockedLoop("the event loop's thread would block")
        return self.current

    def block(self, timeout_s: float | None = None) -> None:
        """Let others run until somebody resumes this thread, or the time is up."""
        thread = self.current_or_fail()
        timer = None if timeout_s is None else self.loop.call_later(timeout_s, thread.resume)
        self.return_turn()
        thread.wait_for_turn()
        if timer is not None:
            timer.cancel()

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass. Another event may not wake it."""
        self.current_or_fail().num_idle_polls = 0
        until_s = self.loop.time() + seconds
        while (left_s := until_s - self.loop.time()) > 1e-7:
            self.block(left_s)

    def switch_to(self, thread: VirtualThread) -> None:
        """Run a thread until it blocks or ends. Called on the loop's thread."""
        assert self.current is None
        self.current = thread
        thread.give_turn()
        if not self._returned.acquire(timeout=HANG_S):
            raise AssertionError("a virtual thread neither blocks nor ends")
        self.current = None
        if thread.error is not None:
            error, thread.error = thread.error, None
            raise error
        self.on_block()

    def return_turn(self) -> None:
        """Let the loop go on. Called on a virtual thread."""
        self._returned.release()

    def kill_all(self, name: str = "") -> None:
        """End every thread with this name, or any, where it blocks."""
        for thread in list(self.alive):
            if name in ("", thread.name):
                thread.kill()


class VirtualQueue:
    """queue.SimpleQueue for virtual threads, with one reader."""

    def __init__(self, threads: VirtualThreads) -> None:
        self._threads = threads
        self._items: deque[Any] = deque()
        self._reader: VirtualThread | None = None

    def put(self, item: Any) -> None:
        """Append an item and wake the reader."""
        self._items.append(item)
        if self._reader is not None:
            self._threads.loop.call_soon(self._reader.resume)
            self._reader = None

    def get(self, block: bool = True) -> Any:
        """Return the first item. Without items wait for one, or raise queue.Empty after some microseconds."""
        me = self._threads.current
        if me is not None:
            self._threads.on_poll()
        if me is not None and not self._items and not block:
            me.num_idle_polls += 1
            if me.num_idle_polls > MAX_IDLE_POLLS:
                raise Spinning("the engine has work and plans nothing")
            self._threads.block(self._threads.rng.uniform(2e-6, 2e-4))
        while not self._items:
            if not block:
                raise queue.Empty
            self._reader = self._threads.current_or_fail()
            self._threads.block()
        return self._items.popleft()


class VirtualPool:
    """The part of ThreadPoolExecutor that FairThreads uses. A task takes a random time and is done at its end."""

    def __init__(self, threads: VirtualThreads, num_threads: int) -> None:
        self._threads, self._num_idle = threads, num_threads
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_closed = False

    def submit(self, function: Callable[[], None]) -> None:
        """Queue a task, which must not block."""
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._waiting.append(function)
        self._start_next()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End after the tasks that run."""
        self._is_closed = True
        self._waiting.clear()

    def _start_next(self) -> None:
        if self._waiting and self._num_idle:
            self._num_idle -= 1
            self._threads.loop.call_later(self._threads.rng.uniform(1e-4, 0.03), self._run, self._waiting.popleft())

    def _run(self, function: Callable[[], None]) -> None:
        function()
        self._num_idle += 1
        self._start_next()


class VirtualTimer:
    """threading.Timer."""

    def __init__(
        self, threads: VirtualThreads, interval: float, function: Callable[..., Any], args: tuple[Any, ...] = ()
    ) -> None:
        self._threads, self._interval, self._function, self._args = threads, interval, function, args
        self._handle: Any = None
        self.daemon = False

    def start(self) -> None:
        """Call the function after the interval."""
        self._handle = self._threads.loop.call_later(self._interval, self._function, *self._args)

    def cancel(self) -> None:
        """Do not call it."""
        if self._handle is not None:
            self._handle.cancel()


class ThreadingModule:
    """What the sources use of `threading`."""

    def __init__(self, threads: VirtualThreads) -> None:
        self._threads = threads
        self.Lock = threading.Lock  # nothing blocks while it holds one
        self.current_thread = self.main_thread = lambda: self

    def Thread(self, target: Callable[..., Any], name: str = "", daemon: bool = False) -> VirtualThread:
        """Make a thread."""
        return VirtualThread(self._threads, target, name)

    def Timer(self, interval: float, function: Callable[..., Any], args: tuple[Any, ...] = ()) -> VirtualTimer:
        """Make a timer."""
        return VirtualTimer(self._threads, interval, function, args)


class QueueModule:
    """What the sources use of `queue`."""

    Empty = queue.Empty

    def __init__(self, threads: VirtualThreads) -> None:
        self._threads = threads

    def SimpleQueue(self) -> VirtualQueue:
        """Make a queue."""
        return VirtualQueue(self._threads)


class TimeModule:
    """What the sources use of `time`. The wall clock may be set, and may so jump; see jump().

    all_modules   The newest one, for those who have lost theirs.
    """

    all_modules: ClassVar[list[TimeModule]] = []

    def __init__(self, threads: VirtualThreads) -> None:
        self.sleep = threads.sleep
        self.monotonic = self.perf_counter = threads.loop.time
        self._offset_s = 1.8e9
        self._loop = threads.loop
        self.time: Callable[[], float] = self._wall
        self.strftime, self.gmtime = time.strftime, time.gmtime
        self.all_modules[:] = [self]

    def _wall(self) -> float:
        return self._loop.time() + self._offset_s

    def jump(self, seconds: float) -> None:
        """Let the wall clock jump."""
        self._offset_s += seconds
